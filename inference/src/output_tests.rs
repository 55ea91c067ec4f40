use proptest::prelude::*;

use super::*;

/// Each token id is a piece of text; bytes of a split character come out once it is whole.
struct Pieces {
    texts: Vec<Vec<u8>>,
    pending: Vec<u8>,
}

impl Detokenizer for Pieces {
    fn push(&mut self, id: u32) -> Option<String> {
        self.pending.extend(&self.texts[id as usize]);
        let valid = match std::str::from_utf8(&self.pending) {
            Ok(_) => self.pending.len(),
            Err(e) => e.valid_up_to(),
        };
        let text = String::from_utf8(self.pending.drain(..valid).collect()).unwrap();
        (!text.is_empty()).then_some(text)
    }

    fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

fn assembler(texts: &[&[u8]], stops: &[&str], include_stop: bool) -> TextAssembler<Pieces> {
    let pieces = Pieces { texts: texts.iter().map(|t| t.to_vec()).collect(), pending: Vec::new() };
    TextAssembler::new(pieces, stops.iter().map(ToString::to_string).collect(), include_stop)
}

/// Feeds all texts; returns the pieces' texts, all tokens given out, and the stop found.
fn run(texts: &[&[u8]], stops: &[&str], include_stop: bool) -> (Vec<String>, Vec<u32>, Option<String>) {
    let mut assembler = assembler(texts, stops, include_stop);
    let mut pieces: Vec<Piece> = (0..texts.len() as u32).map(|id| assembler.push(id, None)).collect();
    pieces.push(assembler.finish());
    let tokens: Vec<u32> = pieces.iter().flat_map(|p| p.tokens.iter().map(|t| t.id)).collect();
    assert_eq!(tokens.len(), assembler.text_tokens());
    (pieces.into_iter().map(|p| p.text).collect(), tokens, assembler.stop().map(str::to_owned))
}

#[test]
fn a_stop_string_across_tokens_is_never_shown_in_part() {
    let check = |texts: &[&str], stops: &[&str], expected: &[&str], tokens: &[u32], stop: Option<&str>| {
        let bytes: Vec<&[u8]> = texts.iter().map(|t| t.as_bytes()).collect();
        let (found, found_tokens, found_stop) = run(&bytes, stops, false);
        assert_eq!((found, found_stop.as_deref()), (expected.iter().map(ToString::to_string).collect(), stop));
        assert_eq!(found_tokens, tokens);
    };
    check(&["ab", "cd"], &[], &["ab", "cd", ""], &[0, 1], None);
    check(&["hello ST", "OP more"], &["STOP"], &["hello ", "", ""], &[0], Some("STOP"));
    check(&["hello ST", "ART"], &["STOP"], &["hello ", "START", ""], &[0, 1], None);
    check(&["a S", "TO"], &["STOP"], &["a ", "", "STO"], &[0, 1], None);
    check(&["\n", "\n", "x"], &["\n\n"], &["", "", "", ""], &[], Some("\n\n"));
    check(&["aa", "ab", "z"], &["aab"], &["", "a", "", ""], &[0], Some("aab"));
    check(&["x", "abc", "d"], &["abcd", "bc"], &["x", "a", "", ""], &[0, 1], Some("bc"));
    check(&["xab", "c"], &["c", "bc", "abc"], &["x", "", ""], &[0], Some("abc"));
    check(&["é", "→", "é"], &["→é"], &["é", "", "", ""], &[0], Some("→é"));
    check(&["a", "b"], &[""], &["a", "b", ""], &[0, 1], None);
}

#[test]
fn the_stop_string_is_shown_if_asked_for() {
    let (texts, tokens, stop) = run(&[b"x = 1", b";\n", b"y"], &[";"], true);
    assert_eq!((texts.concat().as_str(), tokens, stop.as_deref()), ("x = 1;", vec![0, 1], Some(";")));
}

#[test]
fn a_split_character_waits_and_keeps_its_tokens() {
    let (texts, tokens, _) = run(&[b"a", b"\xE2\x86", b"\x92", b"b"], &["zz"], false);
    assert_eq!((texts, tokens), (["a", "", "→", "b", ""].map(String::from).to_vec(), vec![0, 1, 2, 3]));
    let (texts, tokens, _) = run(&[b"a", b"\xE2"], &[], false);
    assert_eq!((texts.concat().as_str(), tokens), ("a\u{FFFD}", vec![0, 1]));
}

proptest! {
    /// However the text is cut into tokens, what is shown is what a search over the whole text says.
    #[test]
    fn cuts_do_not_matter(
        text in "[ab\u{e9}]{0,60}",
        stops in prop::collection::vec("[ab\u{e9}]{1,5}", 0..4),
        cuts in prop::collection::vec(any::<bool>(), 130),
        include_stop in any::<bool>(),
    ) {
        let mut texts: Vec<Vec<u8>> = vec![Vec::new()];
        for (byte, cut) in text.bytes().zip(&cuts) {
            texts.last_mut().unwrap().push(byte);
            if *cut {
                texts.push(Vec::new());
            }
        }
        let slices: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
        let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
        let (shown, tokens, stop) = run(&slices, &stops, include_stop);

        let ends = (0..=text.len()).filter(|end| text.is_char_boundary(*end));
        let ending = |end: usize| stops.iter().filter(|s| text[..end].ends_with(**s)).max_by_key(|s| s.len()).copied();
        let first = ends.map(|end| (end, ending(end))).find(|(_, stop)| stop.is_some());
        let (end, expected_stop) = match first {
            Some((end, Some(stop))) => (if include_stop { end } else { end - stop.len() }, Some(stop.len())),
            _ => (text.len(), None),
        };
        prop_assert_eq!(shown.concat(), &text[..end]);
        prop_assert_eq!(stop.map(|s| s.len()), expected_stop);
        prop_assert!(tokens.windows(2).all(|w| w[0] + 1 == w[1]), "tokens in order, none lost");
    }
}
