//! Bad safetensors files.

use engram_models::safetensors::{SafetensorsError, Shards};

use super::allocator::peak_of;
use crate::{Case, allowed, case, check};

/// A file of this header and `data` zero bytes.
pub fn file(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

/// A file with a header length in place of the true one.
fn with_length(len: u64, header: &str) -> Vec<u8> {
    [&len.to_le_bytes()[..], header.as_bytes()].concat()
}

const GOOD: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}}"#;

/// A file as it should be.
pub fn good() -> Vec<u8> {
    file(GOOD, 22)
}

#[test]
fn the_good_file_is_read() {
    let shards = Shards::from_bytes(good()).unwrap();
    assert_eq!(shards.tensor("a").unwrap().bytes.len(), 16);
    assert_eq!(shards.tensor("b").unwrap().shape, [3]);
    assert!(Shards::from_bytes(file("{}  ", 0)).is_ok());
}

fn cases() -> Vec<Case> {
    let one = |info: &str, data| file(&format!(r#"{{"t":{info}}}"#), data);
    let two = |a: &str, b: &str, data| {
        let header = format!(
            r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":{a}}},"b":{{"dtype":"U8","shape":[4],"data_offsets":{b}}}}}"#
        );
        file(&header, data)
    };
    let deep = format!(r#"{{"t":{}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let overflow = format!(r#"{{"dtype":"F32","shape":[{0},{0}],"data_offsets":[0,4]}}"#, u64::MAX);
    vec![
        case("empty", Vec::new(), "TooShort", "0 bytes"),
        case("seven bytes", vec![0; 7], "TooShort", "7 bytes"),
        case("header of u64::MAX bytes", with_length(u64::MAX, "{}"), "HeaderTooLarge", "18446744073709551615"),
        case("header of 100 MB", with_length(100_000_000, "{}"), "HeaderTooLarge", "100000000"),
        case("header past the end", with_length(3, "{}"), "HeaderTruncated", "fetch it again"),
        case("header of no bytes", with_length(0, ""), "BadHeader", "EOF"),
        case("header of bad UTF-8", [&2u64.to_le_bytes()[..], b"\xff\xfe"].concat(), "BadHeader", "utf-8"),
        case("header is a list", file("[]", 0), "BadHeader", "object of tensor names"),
        case("header goes on", file("{} x", 0), "BadHeader", "trailing"),
        case("header ends early", file(r#"{"a":{"dtype""#, 0), "BadHeader", "EOF"),
        case("header ten thousand deep", file(&deep, 0), "BadHeader", ""),
        case("tensor is a number", one("1", 0), "BadHeader", "TensorInfo"),
        case("no dtype", one(r#"{"shape":[1],"data_offsets":[0,4]}"#, 4), "BadHeader", "dtype"),
        case("dtype F5", one(r#"{"dtype":"F5","shape":[1],"data_offsets":[0,4]}"#, 4), "BadHeader", "F5"),
        case("shape of -1", one(r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}"#, 4), "BadHeader", "-1"),
        case("shape of 1e30", one(r#"{"dtype":"F32","shape":[1e30],"data_offsets":[0,4]}"#, 4), "BadHeader", ""),
        case("one offset", one(r#"{"dtype":"F32","shape":[1],"data_offsets":[0]}"#, 4), "BadHeader", ""),
        case("offsets swapped", one(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,0]}"#, 4), "WrongLength", "`t`"),
        case("too few bytes", one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,4]}"#, 4), "WrongLength", "8 bytes"),
        case("past the end", one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#, 4), "TensorPastEnd", "`t`"),
        case("shape overflows", one(&overflow, 4), "ShapeOverflow", "`t`"),
        case(
            "nine dimensions",
            one(r#"{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}"#, 1),
            "BadRank",
            "9",
        ),
        case("same name", file(&GOOD.replace("\"b\"", "\"a\""), 22), "DuplicateTensor", "`a`"),
        case("same place", two("[0,4]", "[0,4]", 4), "Overlap", "`b`"),
        case("overlap by one", two("[0,4]", "[3,7]", 7), "Overlap", "byte 3"),
        case("a hole", two("[0,4]", "[5,9]", 9), "Hole", "4 to 5"),
        case("bytes after the last", two("[0,4]", "[4,8]", 9), "Hole", "8 to 9"),
        case("no tensors and data", file("{}", 3), "Hole", "0 to 3"),
    ]
}

#[test]
fn each_bad_file_gets_its_error() {
    let count = check(cases(), Shards::from_bytes);
    assert!(count >= 25, "{count}");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let good = good();
    for len in 0..good.len() {
        let cut = good[..len].to_vec();
        let (result, peak) = peak_of(|| Shards::from_bytes(cut));
        assert!(result.is_err(), "cut to {len} of {} bytes", good.len());
        assert!(peak <= allowed(good.len()), "cut to {len}: {peak}");
    }
}

#[test]
fn a_large_hostile_header_stays_in_bounds() {
    // One shape of a million dimensions, and a million of the shortest entries.
    let shape = format!(r#"{{"t":{{"dtype":"U8","shape":[{}1],"data_offsets":[0,1]}}}}"#, "1,".repeat(1 << 20));
    let bytes = file(&shape, 1);
    let len = bytes.len();
    let (result, peak) = peak_of(|| Shards::from_bytes(bytes));
    assert!(matches!(result, Err(SafetensorsError::BadRank { .. })));
    assert!(peak <= allowed(len), "{peak} for {len}");

    let entries: Vec<String> = (0..100_000)
        .map(|n| format!(r#""{n:x}":{{"dtype":"U8","shape":[],"data_offsets":[{n},{}]}}"#, n + 1))
        .collect();
    let bytes = file(&format!("{{{}}}", entries.join(",")), 100_000);
    let len = bytes.len();
    let (result, peak) = peak_of(|| Shards::from_bytes(bytes));
    result.unwrap();
    assert!(peak <= allowed(len), "{peak} for {len}");
}
