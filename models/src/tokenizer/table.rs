//! The bytes each token stands for.

use super::blueprint::TokenKind;
use super::error::TokenizerError;
use super::normalize::VISIBLE_SPACE;

/// Raw bytes of every token, in one allocation.
#[derive(Debug)]
pub(super) struct TokenTable {
    bytes: Vec<u8>,
    /// `bytes[ends[id - 1]..ends[id]]` is token `id`.
    ends: Vec<u32>,
}

impl TokenTable {
    pub(super) fn new(
        tokens: &[String],
        kinds: &[TokenKind],
        byte_level: bool,
        byte_fallback: bool,
    ) -> Result<Self, TokenizerError> {
        let mut bytes = Vec::with_capacity(tokens.iter().map(String::len).sum());
        let mut ends = Vec::with_capacity(tokens.len());
        for (id, (text, &kind)) in tokens.iter().zip(kinds).enumerate() {
            match kind {
                TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined => {
                    bytes.extend_from_slice(text.as_bytes())
                }
                TokenKind::Byte => match byte_of(text) {
                    Some(byte) => bytes.push(byte),
                    None => {
                        return Err(TokenizerError::BadByteToken { id: id as u32, text: text.clone() });
                    }
                },
                TokenKind::Normal | TokenKind::Unused if byte_level => from_byte_level(text, &mut bytes),
                TokenKind::Normal | TokenKind::Unused => match byte_of(text).filter(|_| byte_fallback) {
                    Some(byte) => bytes.push(byte),
                    None => bytes.extend_from_slice(text.replace(VISIBLE_SPACE, " ").as_bytes()),
                },
            }
            // At most MAX_TOKENS * LONGEST_TOKEN = 2^34 in theory; a real file stays far under 2^32, checked here.
            let Ok(end) = u32::try_from(bytes.len()) else {
                return Err(TokenizerError::TooMany {
                    part: "the bytes of all tokens",
                    found: bytes.len(),
                    limit: u32::MAX as usize,
                });
            };
            ends.push(end);
        }
        bytes.shrink_to_fit();
        Ok(TokenTable { bytes, ends })
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, id: u32) -> Option<&[u8]> {
        let index = id as usize;
        let end = *self.ends.get(index)? as usize;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        Some(&self.bytes[start..end])
    }
}

/// The byte of `<0x0A>`.
pub(super) fn byte_of(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() != 2 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(hex, 16).ok()
}

/// Whether a byte is written as itself in GPT-2's alphabet.
const fn printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// GPT-2's alphabet: the printable bytes of Latin-1 stand for themselves, the other 68 for U+0100 and up in order.
const fn alphabet() -> [char; 256] {
    let mut letters = ['\0'; 256];
    let mut byte = 0;
    let mut next = 0x100u32;
    while byte < 256 {
        let code = if printable(byte as u8) {
            byte as u32
        } else {
            next += 1;
            next - 1
        };
        letters[byte] = match char::from_u32(code) {
            Some(letter) => letter,
            None => '\0',
        };
        byte += 1;
    }
    letters
}

const ALPHABET: [char; 256] = alphabet();

/// Writes each byte of `text` as its character of GPT-2's alphabet.
pub(super) fn to_byte_level(text: &str, out: &mut String) {
    out.extend(text.bytes().map(|byte| ALPHABET[byte as usize]));
}

fn from_byte_level(text: &str, out: &mut Vec<u8>) {
    for letter in text.chars() {
        let byte = match letter as u32 {
            code @ 0..=0xFF if printable(code as u8) => Some(code as u8),
            0x100..=0x143 => ALPHABET.iter().position(|&known| known == letter).map(|byte| byte as u8),
            _ => None,
        };
        match byte {
            Some(byte) => out.push(byte),
            // Not of the alphabet: a token that was added as plain text.
            None => out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_gpt2s_and_round_trips() {
        assert_eq!((ALPHABET[b' ' as usize], ALPHABET[b'\n' as usize], ALPHABET[0xAD]), ('Ġ', 'Ċ', '\u{143}'));
        for byte in 0..=255u8 {
            let mut back = Vec::new();
            from_byte_level(&ALPHABET[byte as usize].to_string(), &mut back);
            assert_eq!(back, [byte]);
        }
    }

    #[test]
    fn byte_tokens() {
        assert_eq!(byte_of("<0x0A>"), Some(10));
        for bad in ["<0x0>", "<0x+A>", "0x0A", "<0xGG>", "<0x0A", ""] {
            assert_eq!(byte_of(bad), None, "{bad}");
        }
    }
}
