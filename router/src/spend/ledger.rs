//! What each key has spent and holds, as plain numbers: no clock, no file, no lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::calendar::Day;
use super::{OverBudget, Period, SpendLimits, Spent};
use crate::money::Usd;

/// An amount that is spent: what the log keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Charge {
    pub(super) key: Arc<str>,
    pub(super) day: Day,
    pub(super) amount: Usd,
}

#[derive(Debug)]
struct Account {
    key: Arc<str>,
    /// The last day that anything happened on; `today` and `month` are of it and its month.
    day: Day,
    today: Usd,
    month: Usd,
    /// Estimates of the requests in flight, of whatever day.
    held: Usd,
}

impl Account {
    fn new(key: Arc<str>) -> Self {
        Self { key, day: Day::default(), today: Usd::ZERO, month: Usd::ZERO, held: Usd::ZERO }
    }

    /// Begins a new day, and month. A clock that goes back begins nothing: the spend of a day is not forgotten so.
    fn roll(&mut self, day: Day) {
        if day > self.day {
            if day.month() > self.day.month() {
                self.month = Usd::ZERO;
            }
            self.today = Usd::ZERO;
            self.day = day;
        }
    }

    fn book(&mut self, day: Day, amount: Usd) {
        self.roll(day);
        if day == self.day {
            self.today += amount;
        }
        if day.month() == self.day.month() {
            self.month += amount;
        }
    }

    fn spent(&self, day: Day) -> Spent {
        let today = if day > self.day { Usd::ZERO } else { self.today };
        let month = if day.month() > self.day.month() { Usd::ZERO } else { self.month };
        Spent { day: today, month, held: self.held }
    }
}

/// A place in the ledger that was held.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) key: Arc<str>,
    pub(super) day: Day,
    pub(super) held: Usd,
}

/// All accounts, and what is still to be written of them.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    accounts: HashMap<Arc<str>, Account>,
    /// Settled since the last write, summed by key and day.
    unwritten: HashMap<(Arc<str>, Day), Usd>,
    latest: Day,
}

impl Ledger {
    /// Holds the estimate if every limit has room for it beside what is spent and held. What costs nothing is
    /// never refused.
    pub(super) fn hold(
        &mut self,
        key: &str,
        limits: &SpendLimits,
        estimate: Usd,
        now: SystemTime,
    ) -> Result<Place, OverBudget> {
        let account = self.account(key);
        account.roll(Day::of(now));
        let Spent { day, month, held } = account.spent(account.day);
        for (period, limit, spent) in [(Period::Day, limits.day, day), (Period::Month, limits.month, month)] {
            let Some(limit) = limit else { continue };
            if !estimate.is_zero() && spent + held + estimate > limit {
                let key = account.key.to_string();
                let ends = match period {
                    Period::Day => Day(account.day.0.saturating_add(1)),
                    Period::Month => account.day.next_month(),
                };
                let resets_in = ends.starts_in(now);
                return Err(OverBudget { key, period, limit, spent, held, estimated: estimate, resets_in });
            }
        }
        account.held += estimate;
        let place = Place { key: Arc::clone(&account.key), day: account.day, held: estimate };
        self.latest = self.latest.max(place.day);
        Ok(place)
    }

    /// Gives the held estimate back.
    pub(super) fn release(&mut self, place: &Place) {
        self.account(&place.key).held -= place.held;
    }

    /// Spends on the day of the hold, for which there was room.
    pub(super) fn settle(&mut self, place: &Place, actual: Usd) {
        self.release(place);
        self.book(&place.key, place.day, actual);
        if !actual.is_zero() {
            *self.unwritten.entry((Arc::clone(&place.key), place.day)).or_default() += actual;
        }
    }

    /// Spends what the log says was spent.
    pub(super) fn book(&mut self, key: &str, day: Day, amount: Usd) {
        self.account(key).book(day, amount);
        self.latest = self.latest.max(day);
    }

    pub(super) fn spent(&self, key: &str, now: SystemTime) -> Spent {
        self.accounts.get(key).map(|account| account.spent(Day::of(now))).unwrap_or_default()
    }

    pub(super) fn all(&self, now: SystemTime) -> Vec<(Arc<str>, Spent)> {
        let day = Day::of(now);
        let mut all: Vec<_> =
            self.accounts.values().map(|account| (Arc::clone(&account.key), account.spent(day))).collect();
        all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        all
    }

    pub(super) fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// Takes what is to be appended to the log.
    pub(super) fn take_unwritten(&mut self) -> Vec<Charge> {
        self.unwritten.drain().map(|((key, day), amount)| Charge { key, day, amount }).collect()
    }

    /// What a new log begins with: two charges a key make its day and its month. Keys that spent nothing this month are let go.
    pub(super) fn take_all(&mut self) -> Vec<Charge> {
        self.unwritten.clear();
        let month = self.latest.month();
        self.accounts.retain(|_, account| account.day >= month || !account.held.is_zero());
        let mut charges = Vec::with_capacity(self.accounts.len() * 2);
        for account in self.accounts.values() {
            // On the first of a month the earlier part is nothing.
            for (day, amount) in [(account.day.month(), account.month - account.today), (account.day, account.today)] {
                if !amount.is_zero() {
                    charges.push(Charge { key: Arc::clone(&account.key), day, amount });
                }
            }
        }
        charges
    }

    fn account(&mut self, key: &str) -> &mut Account {
        // Two look-ups, but no allocation for a key that is known.
        if !self.accounts.contains_key(key) {
            let key: Arc<str> = key.into();
            self.accounts.insert(Arc::clone(&key), Account::new(key));
        }
        self.accounts.get_mut(key).expect("inserted above")
    }
}
