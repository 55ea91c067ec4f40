//! Which recalled records go into a prompt, and in which order: one that changes as little as it can.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use engram_memory::{Record, RecordId, Scope};

use super::Shown;

/// Sessions whose order is kept; past it the one that was not heard of for longest is forgotten.
const MAX_SESSIONS: usize = 4096;
/// Records of a session whose place is kept.
const MAX_PLACES: usize = 100;

/// A session's records in the order in which they were first shown, and when it was last heard of.
struct Session {
    heard: u64,
    places: Vec<(RecordId, f32)>,
}

/// The orders of all sessions. A lock, for it is held for some copies only, by threads that serve connections.
#[derive(Default)]
pub struct Orders(Mutex<(u64, HashMap<Scope, Session>)>);

impl Orders {
    /// What the session of `scope` was shown so far, in order; nothing without a session.
    pub fn of(&self, scope: &Scope) -> Vec<(RecordId, f32)> {
        if scope.session.is_none() {
            return Vec::new();
        }
        let orders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        orders.1.get(scope).map(|session| session.places.clone()).unwrap_or_default()
    }

    /// This is what the session is shown now.
    pub fn keep(&self, scope: &Scope, shown: &[Shown]) {
        if scope.session.is_none() {
            return;
        }
        let places = shown.iter().take(MAX_PLACES).map(|shown| (shown.record.id, shown.score)).collect();
        let mut orders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (clock, sessions) = &mut *orders;
        *clock += 1;
        sessions.insert(scope.clone(), Session { heard: *clock, places });
        if sessions.len() > MAX_SESSIONS
            && let Some(oldest) =
                sessions.iter().min_by_key(|(_, session)| session.heard).map(|(scope, _)| scope.clone())
        {
            sessions.remove(&oldest);
        }
    }
}

/// Chooses what is shown within `budget` tokens, and orders it.
///
/// `earlier` is what the session was shown before, in that order; `hits` is what was found now, best first.
/// - Where all of both fit, earlier records keep their places and new ones follow: the prompt only grows.
/// - Where they do not, only what was found now is taken, best first as far as it fits; what of it was shown before
///   keeps its order, and new records follow.
/// - Without a session there is nothing earlier, and records stand in the order of their ids.
///
/// A record that does not fit is passed over: a smaller one behind it may.
pub fn select(
    earlier: Vec<(Record, f32)>,
    hits: Vec<(Record, f32)>,
    budget: usize,
    count: impl Fn(&Record) -> usize,
) -> Vec<Shown> {
    let shown = |(record, score): (Record, f32)| Shown { tokens: count(&record), record, score };
    let known: Vec<RecordId> = earlier.iter().map(|(record, _)| record.id).collect();
    let (again, mut new): (Vec<_>, Vec<_>) = hits.into_iter().partition(|(record, _)| known.contains(&record.id));
    if known.is_empty() {
        let mut chosen = fitting(new.into_iter().map(shown), budget);
        chosen.sort_by_key(|shown| shown.record.id);
        return chosen;
    }
    let earlier: Vec<Shown> = earlier.into_iter().map(shown).collect();
    let mut all = earlier.clone();
    all.extend(new.iter().cloned().map(shown));
    if all.iter().map(|shown| shown.tokens).sum::<usize>() <= budget {
        return all;
    }
    new.extend(again);
    new.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut chosen = fitting(new.into_iter().map(shown), budget);
    // The sort is stable: new records, which have no place yet, keep the order of their scores.
    let place = |shown: &Shown| known.iter().position(|id| *id == shown.record.id).unwrap_or(known.len());
    chosen.sort_by_key(place);
    chosen
}

fn fitting(shown: impl Iterator<Item = Shown>, budget: usize) -> Vec<Shown> {
    let mut left = budget;
    shown
        .filter(|shown| {
            let fits = shown.tokens <= left;
            left -= if fits { shown.tokens } else { 0 };
            fits
        })
        .collect()
}
