//! Huge pages: large arrays that are read here and there, or streamed, wait less for address translation on them.

/// Asks the system to put memory that is not yet touched on huge pages, where it has them; changes no contents.
///
/// The part of `values` on whole pages is advised (Linux, `MADV_HUGEPAGE`); elsewhere nothing happens.
pub fn prefer_huge_pages<T>(values: &[T]) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        let range = values.as_ptr_range();
        let (start, end) = (range.start.addr().next_multiple_of(PAGE), range.end.addr() / PAGE * PAGE);
        if start < end {
            let first = range.start.cast::<u8>().wrapping_add(start - range.start.addr());
            // SAFETY: the pages lie within the slice; the advice changes no contents.
            unsafe { libc::madvise(first.cast_mut().cast(), end - start, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = values;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_slice_may_be_advised() {
        prefer_huge_pages::<u8>(&[]);
        prefer_huge_pages(&[1u16, 2, 3]);
        let values = vec![7u32; 3 << 20];
        prefer_huge_pages(&values);
        assert!(values.iter().all(|&v| v == 7));
    }
}
