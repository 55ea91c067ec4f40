//! A key as it is kept: its sha256.
//!
//! A fast hash is right here, where for passwords it would be wrong: a generated key is 40 letters and digits drawn
//! at random, 238 bits, and no one tries those out however fast each try is. A slow hash would cost every request
//! what it costs an attacker, and buy nothing.

use std::fmt;
use std::str::FromStr;

use rand::RngExt;
use rand::distr::Alphanumeric;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

/// What every generated key begins with, so that scanners for lost secrets can know it.
pub const KEY_START: &str = "eg-";
/// Letters and digits of a generated key.
const KEY_RANDOM: usize = 40;
/// Of those, how many are kept to tell keys apart; the 190 bits of the rest are still out of anyone's reach.
const SHOWN: usize = 8;

/// The sha256 of a key.
#[derive(Clone, Copy)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Its first eight bytes: what it is found by among others.
    pub fn head(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for Digest {
    /// The time says nothing about where two differ.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Digest {}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(***)")
    }
}

/// Text that is no sha256.
#[derive(Debug, thiserror::Error)]
#[error("a sha256 is 64 hexadecimal digits")]
pub struct NoDigest;

impl FromStr for Digest {
    type Err = NoDigest;

    fn from_str(text: &str) -> Result<Self, NoDigest> {
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NoDigest);
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| NoDigest)?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A new key, which nobody has seen yet.
pub struct FreshKey(String);

impl FreshKey {
    /// Drawn from the process's generator, which the system's own seeds.
    pub fn draw() -> Self {
        let random = rand::rng().sample_iter(Alphanumeric).take(KEY_RANDOM).map(char::from);
        Self(KEY_START.chars().chain(random).collect())
    }

    /// What is kept of it.
    pub fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }

    /// What lists show of it.
    pub fn prefix(&self) -> String {
        self.0.chars().take(KEY_START.len() + SHOWN).collect()
    }

    /// The key itself, to be shown once.
    pub fn reveal(self) -> String {
        self.0
    }
}

/// Sixteen hexadecimal digits that name one record for good.
pub fn fresh_id() -> String {
    format!("{:016x}", rand::random::<u64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_long_random_and_told_apart_by_their_start() {
        let keys: Vec<String> = (0..1000).map(|_| FreshKey::draw().reveal()).collect();
        let distinct: std::collections::BTreeSet<&str> = keys.iter().map(|key| &key[..11]).collect();
        assert_eq!(distinct.len(), keys.len(), "two of 1000 keys begin alike");
        assert!(keys.iter().all(|key| key.len() == 43 && key.starts_with("eg-")));
        assert!(keys.iter().all(|key| key[3..].bytes().all(|byte| byte.is_ascii_alphanumeric())));
        let key = FreshKey::draw();
        let (prefix, digest) = (key.prefix(), key.digest());
        let text = key.reveal();
        assert!(text.starts_with(&prefix) && prefix.len() == 11);
        assert_eq!(digest, Digest::of(text.as_bytes()));
    }

    #[test]
    fn digests_round_trip_and_are_not_told_by_debug() {
        let digest = Digest::of(b"abc");
        // FIPS 180-2, appendix B.1.
        assert_eq!(digest.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digest.to_string().parse::<Digest>().expect("hex"), digest);
        assert_eq!(digest.head().to_le_bytes(), digest.as_bytes()[..8]);
        assert!(!format!("{digest:?}").contains("ba78"));
        for bad in ["", "ba78", &"g".repeat(64), &"é".repeat(32), &"a".repeat(65)] {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?}");
        }
    }
}
