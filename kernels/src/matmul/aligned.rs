//! Byte buffers that start on a cache line and stand on huge pages, zeroed by the system as its pages are first touched.
//!
//! A matrix of a few megabytes is too small for huge pages of its own, and on small pages a core that streams weights waits for
//! translations and loses its prefetcher at each page's end (measured: 30 GB/s instead of 55). So buffers are parts of
//! slabs; a slab goes when its last part does.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::error::KernelError;
use crate::pages::prefer_huge_pages;

/// Bytes of a cache line, and of the widest vector register.
pub(super) const LINE: usize = 64;
/// Alignment of a slab, a multiple of the system's huge pages.
const HUGE: usize = 4 << 20;
/// Bytes of a slab that is shared; what is larger than a quarter of it gets one of its own.
const SLAB: usize = 64 << 20;

/// One allocation.
struct Slab {
    base: NonNull<u8>,
    layout: Layout,
    /// Where its bytes begin, on a multiple of [`HUGE`] unless it is small.
    offset: usize,
    len: usize,
}

// SAFETY: the memory is owned; parts of it are handed out once each.
unsafe impl Send for Slab {}
// SAFETY: as above.
unsafe impl Sync for Slab {}

impl Slab {
    fn zeroed(len: usize) -> Result<Self, KernelError> {
        let refused = KernelError::OutOfMemory { bytes: len };
        // Aligned by hand: an over-aligned `alloc_zeroed` writes the zeros itself, this one takes fresh pages as they are.
        let align = if len >= HUGE { HUGE } else { LINE };
        let size = len.checked_add(align).ok_or(refused.clone())?;
        let layout = Layout::from_size_align(size, 16).map_err(|_| refused.clone())?;
        // SAFETY: the size is not zero.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(refused)?;
        let offset = base.as_ptr().align_offset(align);
        let slab = Self { base, layout, offset, len };
        if len >= HUGE {
            prefer_huge_pages(slab.bytes());
        }
        Ok(slab)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: offset + len <= size (offset < align), all bytes are initialised.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(self.offset), self.len) }
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this layout.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

/// Zeroed bytes; the first stands on a 64-byte boundary.
pub(crate) struct AlignedBytes {
    slab: Arc<Slab>,
    start: usize,
    len: usize,
}

/// The slab that has room, and how much of it is taken. A lock because matrices may be packed on several threads; it is held
/// for an addition.
static CURRENT: Mutex<(Weak<Slab>, usize)> = Mutex::new((Weak::new(), 0));

impl AlignedBytes {
    /// `len` zero bytes. Errors: [`KernelError::OutOfMemory`].
    pub(crate) fn zeroed(len: usize) -> Result<Self, KernelError> {
        if len > SLAB / 4 {
            return Ok(Self { slab: Arc::new(Slab::zeroed(len)?), start: 0, len });
        }
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let (slab, start) = match current.0.upgrade() {
            Some(slab) if current.1 + len <= slab.len => (slab, current.1),
            _ => {
                let slab = Arc::new(Slab::zeroed(SLAB)?);
                current.0 = Arc::downgrade(&slab);
                (slab, 0)
            }
        };
        current.1 = (start + len).next_multiple_of(LINE);
        Ok(Self { slab, start, len })
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: start + len is at most the slab's len, all bytes are initialised, and nobody else has this part.
        unsafe { std::slice::from_raw_parts(self.slab.base.as_ptr().add(self.slab.offset + self.start), self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.slab.base.as_ptr().add(self.slab.offset + self.start), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_zeroed_aligned_and_their_own() {
        let mut parts: Vec<AlignedBytes> =
            [1, 64, 100, 5 << 20, 0, SLAB / 4 + 1, SLAB / 4, SLAB / 4, SLAB / 4, SLAB / 4, 3]
                .into_iter()
                .map(|len| AlignedBytes::zeroed(len).expect("memory"))
                .collect();
        for (i, part) in parts.iter_mut().enumerate() {
            assert!(part.as_slice().as_ptr().addr().is_multiple_of(LINE), "part {i}");
            assert!(part.as_slice().iter().all(|&byte| byte == 0), "part {i}");
            part.as_mut_slice().fill(i as u8 + 1);
        }
        for (i, part) in parts.iter().enumerate() {
            assert!(part.as_slice().iter().all(|&byte| byte == i as u8 + 1), "part {i}");
        }
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        assert!(matches!(AlignedBytes::zeroed(usize::MAX), Err(KernelError::OutOfMemory { .. })));
    }
}
