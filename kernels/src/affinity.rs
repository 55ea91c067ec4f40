//! Which cores the process may use, and threads bound to one.

/// The cores that this thread may run on, in order; empty where the system does not say.
#[cfg(target_os = "linux")]
pub(crate) fn allowed() -> Vec<usize> {
    // SAFETY: a cpu_set_t is plain bits, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the size is that of the set it writes.
    let failed = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) } != 0;
    if failed {
        return Vec::new();
    }
    // SAFETY: numbers below CPU_SETSIZE are bits of the set.
    (0..libc::CPU_SETSIZE as usize).filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect()
}

/// Binds the calling thread to one core; false where that cannot be.
#[cfg(target_os = "linux")]
pub(crate) fn bind(core: usize) -> bool {
    if core >= libc::CPU_SETSIZE as usize {
        return false;
    }
    // SAFETY: as above.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the number was checked.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the size is that of the set it reads.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) == 0 }
}

/// No answer elsewhere.
#[cfg(not(target_os = "linux"))]
pub(crate) fn allowed() -> Vec<usize> {
    Vec::new()
}

/// Not done elsewhere.
#[cfg(not(target_os = "linux"))]
pub(crate) fn bind(_: usize) -> bool {
    false
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_bound_thread_has_one_core() {
        let cores = allowed();
        assert!(!cores.is_empty());
        let last = cores[cores.len() - 1];
        let of_thread = std::thread::spawn(move || (bind(last), allowed())).join().expect("it does not panic");
        assert_eq!(of_thread, (true, vec![last]));
        assert_eq!(allowed(), cores, "only that thread was bound");
        assert!(!bind(1 << 20));
    }
}
