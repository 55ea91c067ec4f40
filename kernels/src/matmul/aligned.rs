//! A byte buffer that starts on a cache line, zeroed by the system as its pages are first touched.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use crate::error::KernelError;

/// Bytes of a cache line, and of the widest vector register.
pub(super) const LINE: usize = 64;
/// From this size on, the kernel is asked for huge pages.
const HUGE: usize = 4 << 20;

/// Zeroed bytes; the first stands on a 64-byte boundary.
pub(super) struct AlignedBytes {
    base: NonNull<u8>,
    layout: Layout,
    offset: usize,
    len: usize,
}

// SAFETY: the buffer is owned and has no interior mutability.
unsafe impl Send for AlignedBytes {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    /// `len` zero bytes. Errors: [`KernelError::OutOfMemory`].
    pub(super) fn zeroed(len: usize) -> Result<Self, KernelError> {
        let refused = KernelError::OutOfMemory { bytes: len };
        // Aligned by hand: an over-aligned `alloc_zeroed` writes the zeros itself, this one takes fresh pages as they are.
        let align = if len >= HUGE { HUGE } else { LINE };
        let size = len.checked_add(align).ok_or(refused.clone())?;
        let layout = Layout::from_size_align(size, 16).map_err(|_| refused.clone())?;
        // SAFETY: the size is not zero.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(refused)?;
        let offset = base.as_ptr().align_offset(align);
        let bytes = Self { base, layout, offset, len };
        bytes.ask_for_huge_pages();
        Ok(bytes)
    }

    #[cfg(target_os = "linux")]
    fn ask_for_huge_pages(&self) {
        let whole = self.len / HUGE * HUGE;
        if whole > 0 {
            // SAFETY: the range lies inside our allocation and starts on a page; the advice changes no contents.
            unsafe { libc::madvise(self.base.as_ptr().add(self.offset).cast(), whole, libc::MADV_HUGEPAGE) };
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn ask_for_huge_pages(&self) {}

    pub(super) fn as_slice(&self) -> &[u8] {
        // SAFETY: offset + len <= size (offset < align), all bytes are initialised.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(self.offset), self.len) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(self.offset), self.len) }
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this layout.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}
