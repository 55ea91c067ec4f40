//! Files from strangers: each of these is refused with the error that says what is wrong, none makes the reader
//! panic, and none makes it take more memory than a small multiple of the file's own size.

mod bad {
    pub mod allocator;
    pub mod configs;
    pub mod gguf;
    pub mod mutate;
    pub mod safetensors;
}

use bad::allocator::peak_of;

/// One bad file.
pub struct Case {
    /// What is wrong with it.
    label: String,
    /// The file.
    bytes: Vec<u8>,
    /// How the error's debug form begins: its variant.
    variant: &'static str,
    /// Something that the message has to say: a name, a number or a cure.
    says: &'static str,
}

/// A bad file with its expected error.
pub fn case(label: impl Into<String>, bytes: Vec<u8>, variant: &'static str, says: &'static str) -> Case {
    Case { label: label.into(), bytes, variant, says }
}

/// Memory that reading a file of `len` bytes may take at its peak: its own bytes in this test, the parsed form,
/// and a constant.
pub fn allowed(len: usize) -> usize {
    (64 << 10) + 16 * len
}

/// Reads each case and compares the error; gives back how many there were.
pub fn check<T, E: std::error::Error>(cases: Vec<Case>, read: impl Fn(Vec<u8>) -> Result<T, E>) -> usize {
    let count = cases.len();
    for Case { label, bytes, variant, says } in cases {
        let len = bytes.len();
        let (result, peak) = peak_of(|| read(bytes));
        let error = match result {
            Ok(_) => panic!("{label}: was read"),
            Err(error) => error,
        };
        let (debug, message) = (format!("{error:?}"), whole_message(&error));
        assert!(debug.starts_with(variant), "{label}: expected {variant}, got {debug}");
        assert!(message.contains(says), "{label}: `{says}` is not in: {message}");
        assert!(peak <= allowed(len), "{label}: took {peak} bytes for a file of {len}");
    }
    count
}

/// The message with its causes.
pub fn whole_message(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message += &format!(": {error}");
        cause = error.source();
    }
    message
}
