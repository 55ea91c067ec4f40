//! Lines shared out among definitions, and small neighbours joined.

use super::ChunkLimits;
use super::lines::Lines;
use super::outline::Item;

/// Lines that stay together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// First line, from 0; not blank.
    pub first: usize,
    /// Last line; not blank.
    pub last: usize,
    /// Definitions that begin in it.
    pub items: Vec<usize>,
    /// The innermost definition that its first line stands in.
    pub around: Option<usize>,
    /// The definition whose members stand beside each other here; `None`: the file.
    level: Option<usize>,
    /// A whole definition without members, rather than what lies between.
    whole: bool,
}

/// All lines that are not blank, in order. Each belongs to the innermost definition it stands in, and a line
/// that several share to the last of them.
pub(super) fn segments(lines: &Lines<'_>, items: &[Item], limits: &ChunkLimits) -> Vec<Segment> {
    let mut owners: Vec<Option<usize>> = vec![None; lines.len()];
    let mut has_members = vec![false; items.len()];
    for (index, item) in items.iter().enumerate() {
        let end = item.lines.end.min(owners.len());
        if let Some(range) = owners.get_mut(item.lines.start..end) {
            range.fill(Some(index));
        }
        if let Some(parent) = item.parent {
            has_members[parent] = true;
        }
    }
    let mut joined: Vec<Segment> = Vec::new();
    let mut begun = vec![false; items.len()];
    let mut first = 0;
    while first < owners.len() {
        let owner = owners[first];
        let run = owners[first..].iter().take_while(|other| **other == owner).count();
        let next = first + run;
        let mut solid = (first..next).filter(|line| !lines.blank(*line));
        let bounds = solid.next().map(|start| (start, solid.next_back().unwrap_or(start)));
        first = next;
        let Some((start, last)) = bounds else { continue };
        let members = owner.is_some_and(|item| has_members[item]);
        let level = if members { owner } else { owner.and_then(|item| items[item].parent) };
        let begins = owner.filter(|item| !std::mem::replace(&mut begun[*item], true));
        let segment = Segment {
            first: start,
            last,
            items: begins.into_iter().collect(),
            around: owner,
            level,
            whole: owner.is_some() && !members,
        };
        match joined.last_mut() {
            Some(before) if joins(before, &segment, lines, limits) => {
                if scrap(before, lines) {
                    before.level = segment.level; // it stands for what it was joined to
                    before.around = segment.around;
                }
                before.join(segment);
            }
            _ => joined.push(segment),
        }
    }
    joined
}

impl Segment {
    fn join(&mut self, next: Segment) {
        self.last = next.last;
        self.whole |= next.whole;
        self.items.extend(next.items);
    }
}

/// What lies between and is too little to be found by: a closing brace, `mod wire {`.
fn scrap(segment: &Segment, lines: &Lines<'_>) -> bool {
    const MOST: usize = 40; // bytes
    !segment.whole && lines.bytes(segment.first, segment.last) <= MOST
}

/// Whether two neighbours are one chunk: members of the same definition, of which both are small, or the one
/// that is small is what lies between.
fn joins(a: &Segment, b: &Segment, lines: &Lines<'_>, limits: &ChunkLimits) -> bool {
    let opens = scrap(a, lines) && (!a.items.is_empty() || a.around.is_none());
    let closes = scrap(b, lines) && b.items.is_empty();
    if (opens || closes) && lines.bytes(a.first, b.last) <= limits.max_bytes {
        return true;
    }
    let small = |segment: &Segment| lines.bytes(segment.first, segment.last) < limits.min_bytes;
    let large = |segment: &Segment| lines.bytes(segment.first, segment.last) > limits.max_bytes;
    // what is split anyway may as well take the line that opens or closes its surroundings
    let fits = lines.bytes(a.first, b.last) <= limits.max_bytes || large(a) || large(b);
    let wanted = match (small(a), small(b)) {
        (true, true) => true,
        (true, false) => !a.whole,
        (false, true) => !b.whole,
        (false, false) => false,
    };
    a.level == b.level && fits && wanted
}
