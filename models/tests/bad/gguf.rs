//! Bad GGUF files, made byte by byte, since the writer cannot make them.

use engram_models::ModelError;
use engram_models::gguf::{Gguf, GgufError};

use super::allocator::peak_of;
use crate::{Case, allowed, case, check, whole_message};

/// A GGUF file in parts, any of which may be wrong.
#[derive(Clone)]
pub struct Raw {
    pub magic: Vec<u8>,
    pub version: u32,
    /// Counts in place of the true ones.
    pub tensor_count: Option<u64>,
    pub key_count: Option<u64>,
    pub keys: Vec<Vec<u8>>,
    pub tensors: Vec<Vec<u8>>,
    pub data: Vec<u8>,
    pub alignment: usize,
}

impl Raw {
    /// A file with a few keys and two tensors, as it should be.
    pub fn good() -> Self {
        Self {
            magic: b"GGUF".to_vec(),
            version: 3,
            tensor_count: None,
            key_count: None,
            keys: vec![
                key(b"general.architecture", 8, &string(b"llama")),
                key(b"llama.block_count", 4, &1u32.to_le_bytes()),
                key(b"tokens", 9, &array(8, 2, &[string(b"a"), string("é".as_bytes())].concat())),
                key(b"flag", 7, &[1]),
            ],
            tensors: vec![tensor(b"first", &[4, 2], F32, 0), tensor(b"second", &[32], Q8_0, 32)],
            data: vec![1; 66],
            alignment: 32,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.magic.clone();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.key_count.unwrap_or(self.keys.len() as u64).to_le_bytes());
        out.extend(self.keys.concat());
        out.extend(self.tensors.concat());
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(&self.data);
        out
    }

    fn with(change: impl FnOnce(&mut Self)) -> Vec<u8> {
        let mut raw = Self::good();
        change(&mut raw);
        raw.bytes()
    }

    /// With one more key.
    fn with_key(key: Vec<u8>) -> Vec<u8> {
        Self::with(|raw| raw.keys.push(key))
    }

    /// With one more tensor.
    fn with_tensor(tensor: Vec<u8>) -> Vec<u8> {
        Self::with(|raw| raw.tensors.push(tensor))
    }

    /// With one tensor only.
    fn one_tensor(tensor: Vec<u8>) -> Vec<u8> {
        Self::with(|raw| raw.tensors = vec![tensor])
    }
}

const F32: u32 = 0;
const Q8_0: u32 = 8;
const Q4_K: u32 = 12;

fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

fn key(name: &[u8], ty: u32, value: &[u8]) -> Vec<u8> {
    [&string(name)[..], &ty.to_le_bytes(), value].concat()
}

fn array(ty: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&ty.to_le_bytes()[..], &count.to_le_bytes(), elements].concat()
}

/// Dimensions innermost first, as in the file.
fn tensor(name: &[u8], dims: &[u64], ty: u32, offset: u64) -> Vec<u8> {
    let mut out = string(name);
    out.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
    out.extend(ty.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

#[test]
fn the_good_file_is_read() {
    let file = Gguf::from_bytes(Raw::good().bytes()).unwrap();
    assert_eq!(file.tensor("first").unwrap().shape, [2, 4]);
    assert_eq!(file.metadata().strings("tokens").unwrap().unwrap(), ["a", "é"]);
    let version_2 = Raw::with(|raw| raw.version = 2);
    assert_eq!(Gguf::from_bytes(version_2).unwrap().version(), 2);
}

fn header_cases() -> Vec<Case> {
    vec![
        case("empty", Vec::new(), "BadMagic", "begins with"),
        case("three bytes", b"GGU".to_vec(), "BadMagic", "begins with"),
        case("another format", b"PK\x03\x04 and more of a zip file".to_vec(), "BadMagic", "[50, 4b, 03, 04]"),
        case("the magic alone", b"GGUF".to_vec(), "Truncated", "the version"),
        case("version 1", Raw::with(|raw| raw.version = 1), "UnsupportedVersion { version: 1", "convert"),
        case("version 4", Raw::with(|raw| raw.version = 4), "UnsupportedVersion { version: 4", "2 and 3"),
        case("big-endian", Raw::with(|raw| raw.version = 3u32.swap_bytes()), "BigEndian", "little-endian"),
        case("u64::MAX tensors", Raw::with(|raw| raw.tensor_count = Some(u64::MAX)), "AbsurdCount", "tensors"),
        case("u64::MAX keys", Raw::with(|raw| raw.key_count = Some(u64::MAX)), "AbsurdCount", "keys"),
        case("2^32 keys", Raw::with(|raw| raw.key_count = Some(1 << 32)), "AbsurdCount", "4294967296"),
        case("more keys than there are", Raw::with(|raw| raw.key_count = Some(5)), "Truncated", "tensor number 0"),
        case(
            "more tensors than there are",
            Raw::with(|raw| raw.tensor_count = Some(4)),
            "Truncated",
            "tensor number 2",
        ),
    ]
}

fn metadata_cases() -> Vec<Case> {
    let length = |len: u64| [&len.to_le_bytes()[..], b"x"].concat();
    let key_alone = |key: Vec<u8>| {
        Raw::with(|raw| {
            raw.keys = vec![key];
            raw.tensors.clear();
            raw.data.clear();
            raw.alignment = 1;
        })
    };
    let bool_array = array(7, 2, &[1, 2]);
    vec![
        case("key of u64::MAX bytes", Raw::with_key(length(u64::MAX)), "Truncated", "metadata key number 4"),
        case("key of 2^63 bytes", Raw::with_key(length(1 << 63)), "Truncated", "cut short"),
        case("empty key", Raw::with_key(key(b"", 0, &[1])), "EmptyKey { index: 4", "empty"),
        case("key of 2000 bytes", Raw::with_key(key(&[b'k'; 2000], 0, &[1])), "AbsurdCount", "2000"),
        case("key of bad UTF-8", Raw::with_key(key(b"\xff\xfe", 0, &[1])), "NotUtf8", "number 4"),
        case("key twice", Raw::with_key(key(b"flag", 7, &[0])), "DuplicateKey", "`flag`"),
        case("value type 13", Raw::with_key(key(b"k", 13, &[0; 8])), "UnknownValueType", "`k`"),
        case("value type u32::MAX", Raw::with_key(key(b"k", u32::MAX, &[0; 8])), "UnknownValueType", "4294967295"),
        case("boolean of 2", Raw::with_key(key(b"k", 7, &[2])), "BadBool", "value 2"),
        case("string of bad UTF-8", Raw::with_key(key(b"k", 8, &string(b"a\x80"))), "NotUtf8", "`k`"),
        case("string of u64::MAX bytes", Raw::with_key(key(b"k", 8, &length(u64::MAX))), "Truncated", "`k`"),
        case("array of arrays", Raw::with_key(key(b"k", 9, &array(9, 1, &array(0, 1, &[1])))), "NestedArray", "`k`"),
        case("array of type 99", Raw::with_key(key(b"k", 9, &array(99, 1, &[1]))), "UnknownValueType", "99"),
        case("array of u64::MAX bytes", Raw::with_key(key(b"k", 9, &array(0, u64::MAX, &[]))), "AbsurdCount", "`k`"),
        case("array whose bytes overflow", Raw::with_key(key(b"k", 9, &array(12, 1 << 61, &[]))), "AbsurdCount", "`k`"),
        case("array of 2^40 strings", Raw::with_key(key(b"k", 9, &array(8, 1 << 40, &[]))), "AbsurdCount", "`k`"),
        case(
            "array longer than the file",
            Raw::with_key(key(b"k", 9, &array(4, 1000, &[0; 40]))),
            "AbsurdCount",
            "1000",
        ),
        case(
            "string array with a bad element",
            Raw::with_key(key(b"k", 9, &array(8, 2, &[string(b"a"), string(b"\xc3")].concat()))),
            "NotUtf8",
            "element 1 of `k`",
        ),
        case(
            "string array whose last element is too long",
            key_alone(key(b"k", 9, &array(8, 2, &[string(b"a"), length(99)].concat()))),
            "Truncated",
            "element 1 of `k`",
        ),
        case("boolean array with a 2", Raw::with_key(key(b"k", 9, &bool_array)), "BadBool", "`k`"),
        case("cut inside a u64 value", key_alone(key(b"a.number", 10, &[])), "Truncated", "`a.number`"),
        case("alignment 0", Raw::with_key(alignment(4, &0u32.to_le_bytes())), "BadAlignment", "power of two"),
        case("alignment 24", Raw::with_key(alignment(4, &24u32.to_le_bytes())), "BadAlignment", "24"),
        case("alignment 2^31", Raw::with_key(alignment(4, &(1u32 << 31).to_le_bytes())), "BadAlignment", "2147483648"),
        case("alignment -8", Raw::with_key(alignment(5, &(-8i32).to_le_bytes())), "BadAlignment", "-8"),
        case("alignment as text", Raw::with_key(alignment(8, &string(b"32"))), "BadAlignment", "32"),
        case("part 3 of 2", split_bytes(2, 2), "BadSplit", "there is no such part"),
        case("65535 parts", split_bytes(0, 65535), "AbsurdCount", "split.count"),
    ]
}

fn alignment(ty: u32, value: &[u8]) -> Vec<u8> {
    key(b"general.alignment", ty, value)
}

fn split_bytes(part: u16, parts: u16) -> Vec<u8> {
    Raw::with(|raw| {
        raw.keys.push(key(b"split.no", 2, &part.to_le_bytes()));
        raw.keys.push(key(b"split.count", 2, &parts.to_le_bytes()));
    })
}

fn tensor_cases() -> Vec<Case> {
    let max = u64::MAX;
    vec![
        case("tensor twice", Raw::with_tensor(tensor(b"first", &[1], F32, 96)), "DuplicateTensor", "`first`"),
        case("tensor without a name", Raw::with_tensor(tensor(b"", &[1], F32, 96)), "UnnamedTensor", "number 2"),
        case("tensor name of bad UTF-8", Raw::one_tensor(tensor(b"\xf0\x28", &[1], F32, 0)), "NotUtf8", "number 0"),
        case("no dimensions", Raw::one_tensor(tensor(b"t", &[], F32, 0)), "BadRank", "0 dimensions"),
        case("five dimensions", Raw::one_tensor(tensor(b"t", &[1; 5], F32, 0)), "BadRank", "5 dimensions"),
        case("u32::MAX dimensions", Raw::one_tensor(rank(u32::MAX)), "BadRank", "4294967295"),
        case("a dimension of 0", Raw::one_tensor(tensor(b"t", &[4, 0], F32, 0)), "ZeroDimension", "[0, 4]"),
        case("product overflows", Raw::one_tensor(tensor(b"t", &[1 << 33, 1 << 33], F32, 0)), "ShapeOverflow", "`t`"),
        case(
            "product is 2^64 exactly",
            Raw::one_tensor(tensor(b"t", &[1 << 32, 1 << 32], F32, 0)),
            "ShapeOverflow",
            "",
        ),
        case("product wraps to 0", Raw::one_tensor(tensor(b"t", &[1 << 62, 4, 1, 1], F32, 0)), "ShapeOverflow", "`t`"),
        case("u64::MAX elements", Raw::one_tensor(tensor(b"t", &[max], F32, 0)), "ShapeOverflow", "`t`"),
        case("u64::MAX four times", Raw::one_tensor(tensor(b"t", &[max; 4], F32, 0)), "ShapeOverflow", "`t`"),
        case("type 99", Raw::one_tensor(tensor(b"t", &[4], 99, 0)), "UnknownType", "99"),
        case("type u32::MAX", Raw::one_tensor(tensor(b"t", &[4], u32::MAX, 0)), "UnknownType", "4294967295"),
        case("Q4_K rows of 100", Raw::one_tensor(tensor(b"t", &[100, 2], Q4_K, 0)), "RowNotBlocks", "blocks of 256"),
        case("Q8_0 rows of 33", Raw::one_tensor(tensor(b"t", &[33], Q8_0, 0)), "RowNotBlocks", "blocks of 32"),
        case("offset off by one", Raw::one_tensor(tensor(b"t", &[4], F32, 1)), "Misaligned", "alignment 32"),
        case("offset u64::MAX aligned", Raw::one_tensor(tensor(b"t", &[4], F32, max - 31)), "TensorPastEnd", "`t`"),
        case("offset past the end", Raw::one_tensor(tensor(b"t", &[4], F32, 1 << 20)), "TensorPastEnd", "1048576"),
        case(
            "longer than the file",
            Raw::one_tensor(tensor(b"t", &[1 << 40], F32, 0)),
            "TensorPastEnd",
            "fetch it again",
        ),
        case("ends one byte late", Raw::with(|raw| raw.data.truncate(65)), "TensorPastEnd", "`second`"),
        case("same place", Raw::with_tensor(tensor(b"third", &[8], F32, 0)), "Overlap", "overlap"),
        case("begins inside another", Raw::with_tensor(tensor(b"third", &[2], F32, 32)), "Overlap", "`second`"),
        case("data section missing", Raw::with(|raw| raw.data.clear()), "TensorPastEnd", "`first`"),
    ]
}

/// A tensor that claims more dimensions than follow.
fn rank(rank: u32) -> Vec<u8> {
    let mut out = string(b"t");
    out.extend(rank.to_le_bytes());
    out.extend([0; 64]);
    out
}

#[test]
fn each_bad_file_gets_its_error() {
    let cases: Vec<Case> = header_cases().into_iter().chain(metadata_cases()).chain(tensor_cases()).collect();
    // A split model is only noticed when a path is opened, so all go through one.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let count = check(cases, |bytes| {
        std::fs::write(&path, bytes).unwrap();
        match Gguf::open(&path) {
            Ok(_) => Ok(()),
            Err(ModelError::Gguf { source, .. }) => Err(source),
            Err(other) => panic!("{other:?}"),
        }
    });
    assert!(count >= 60, "{count}");
}

#[test]
fn types_that_are_not_read_are_named() {
    let named = [
        (9, "Q8_1"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (20, "IQ4_NL"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (23, "IQ4_XS"),
        (24, "I8"),
        (26, "I32"),
        (28, "F64"),
        (29, "IQ1_M"),
        (31, "Q4_0_4_4"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (39, "MXFP4"),
        (40, "NVFP4"),
    ];
    for (id, expected) in named {
        let error = Gguf::from_bytes(Raw::one_tensor(tensor(b"blk.0.x", &[256], id, 0))).unwrap_err();
        let message = whole_message(&error);
        let begin = format!("tensor `blk.0.x` has type {expected}");
        assert!(
            message.starts_with(&begin) && message.contains("which Engram does not read; supported: F32"),
            "{message}"
        );
        assert!(message.contains("Q4_K") && matches!(error, GgufError::UnsupportedType { .. }));
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let good = Raw::good().bytes();
    for len in 0..good.len() {
        let cut = good[..len].to_vec();
        let (result, peak) = peak_of(|| Gguf::from_bytes(cut));
        assert!(result.is_err(), "cut to {len} of {} bytes", good.len());
        assert!(peak <= allowed(good.len()), "cut to {len}: {peak}");
    }
}

#[test]
fn hostile_counts_cost_no_memory_even_in_a_file_large_enough_for_them() {
    // Sparse: 64 GiB that take no disk. Counts that such a file could hold are refused by the absolute limits.
    let claims: [(&str, Vec<u8>, &str); 5] = [
        ("array of 2^33 bytes", key(b"k", 9, &array(0, 1 << 33, &[])), "AbsurdCount"),
        ("array of 2^32 strings", key(b"k", 9, &array(8, 1 << 32, &[])), "AbsurdCount"),
        ("array of 2^24 floats", key(b"k", 9, &array(6, 1 << 24, &[])), "AbsurdCount"),
        ("string of 2^35 bytes", [&key(b"k", 8, &(1u64 << 35).to_le_bytes())[..]].concat(), "AbsurdCount"),
        ("key of 2^35 bytes", (1u64 << 35).to_le_bytes().to_vec(), "AbsurdCount"),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    for (label, key, variant) in claims {
        let raw = Raw { keys: vec![key], tensors: Vec::new(), data: Vec::new(), alignment: 1, ..Raw::good() };
        std::fs::write(&path, raw.bytes()).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(64 << 30).unwrap();
        let (result, peak) = peak_of(|| Gguf::open(&path));
        let Err(ModelError::Gguf { source, .. }) = result else { panic!("{label}: was read") };
        assert!(format!("{source:?}").starts_with(variant), "{label}: {source:?}");
        assert!(peak < 1 << 20, "{label}: took {peak} bytes");
    }
    let counts = Raw { tensor_count: Some(1 << 30), key_count: Some(0), ..Raw::good() };
    std::fs::write(&path, counts.bytes()).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(64 << 30).unwrap();
    let (result, peak) = peak_of(|| Gguf::open(&path));
    assert!(matches!(result, Err(ModelError::Gguf { source: GgufError::AbsurdCount { .. }, .. })));
    assert!(peak < 1 << 20, "{peak}");
}

#[test]
fn the_densest_good_files_stay_in_bounds() {
    // A million empty strings, and as many keys as a file may have: the parsed form is larger than the file.
    let strings = Raw { keys: vec![key(b"k", 9, &array(8, 1 << 20, &vec![0; 8 << 20]))], ..Raw::good() };
    let keys = Raw { keys: (0..60_000).map(|n| key(format!("{n:x}").as_bytes(), 0, &[1])).collect(), ..Raw::good() };
    for (label, raw) in [("strings", strings), ("keys", keys)] {
        let bytes = raw.bytes();
        let len = bytes.len();
        let (result, peak) = peak_of(|| Gguf::from_bytes(bytes));
        result.unwrap();
        assert!(peak <= allowed(len), "{label}: {peak} bytes for {len}");
    }
}
