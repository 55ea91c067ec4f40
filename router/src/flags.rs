//! Feature flags: named switches that a tenant has or has not.
//!
//! A flag that is enabled is on for the tenants it lists, and for a share of all others. Who belongs to the share
//! follows from a hash of the flag's and the tenant's name: the same at every server and every start, and raising
//! the share takes it from nobody. Flags come from `[flags.NAME]`; the admin API changes them until the next reload.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::config::FlagConfig;
use crate::reload::Live;

/// All flags. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Flags(Live<BTreeMap<String, Flag>>);

/// One flag as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct Flag {
    /// Its name, its state and what it is for.
    pub config: FlagConfig,
    /// It is not what the configuration says: the admin API changed it.
    pub changed: bool,
}

/// A change of a flag; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FlagChange {
    /// On for anyone at all.
    pub enabled: Option<bool>,
    /// Share of the tenants, 0 to 100.
    pub percent: Option<f64>,
    /// Tenants that have it whatever the share.
    pub tenants: Option<Vec<String>>,
}

impl Default for Flags {
    fn default() -> Self {
        Self(Live::new(BTreeMap::new()))
    }
}

impl Flags {
    /// The configured flags.
    pub fn new(configured: &[FlagConfig]) -> Self {
        let flags = Self::default();
        flags.replace(configured);
        flags
    }

    /// Whether a tenant has a flag; a flag that nobody configured is off.
    pub fn enabled(&self, flag: &str, tenant: &str) -> bool {
        self.0.load().get(flag).is_some_and(|flag| flag.config.has(tenant))
    }

    /// Takes the configured flags instead of all there are, changed ones too.
    pub fn replace(&self, configured: &[FlagConfig]) {
        let flag = |config: &FlagConfig| (config.name.clone(), Flag { config: config.clone(), changed: false });
        self.0.store(configured.iter().map(flag).collect());
    }

    /// Changes a flag until the next [`replace`](Self::replace); `None`: there is none of this name.
    pub fn change(&self, name: &str, change: FlagChange) -> Option<Flag> {
        let mut changed = None;
        self.0.update(|flags| {
            let mut flags = flags.clone();
            changed = flags.get_mut(name).map(|flag| {
                let config = &mut flag.config;
                config.enabled = change.enabled.unwrap_or(config.enabled);
                config.percent = change.percent.unwrap_or(config.percent);
                if let Some(tenants) = change.tenants {
                    config.tenants = tenants;
                }
                flag.changed = true;
                flag.clone()
            });
            flags
        });
        changed
    }

    /// All flags by name.
    pub fn list(&self) -> Vec<Flag> {
        self.0.load().values().cloned().collect()
    }

    /// The flag of this name.
    pub fn get(&self, name: &str) -> Option<Flag> {
        self.0.load().get(name).cloned()
    }
}

impl FlagConfig {
    /// Whether a tenant has it.
    fn has(&self, tenant: &str) -> bool {
        self.enabled && (self.tenants.iter().any(|listed| listed == tenant) || place(&self.name, tenant) < self.percent)
    }
}

/// Where a tenant stands among all, from 0 to just below 100; another place for each flag.
fn place(flag: &str, tenant: &str) -> f64 {
    let mut hasher = Sha256::new();
    hasher.update(b"engram flag\0");
    hasher.update(flag.as_bytes());
    // No name holds a NUL, so no two pairs are hashed alike.
    hasher.update(b"\0");
    hasher.update(tenant.as_bytes());
    let digest: [u8; 32] = hasher.finalize().into();
    let mut high = [0; 8];
    high.copy_from_slice(&digest[..8]);
    // 53 bits are what a float holds exactly: no rounding up to 100.
    (u64::from_be_bytes(high) >> 11) as f64 / (1u64 << 53) as f64 * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flag(name: &str, percent: f64, tenants: &[&str]) -> FlagConfig {
        FlagConfig {
            name: name.into(),
            enabled: true,
            percent,
            tenants: tenants.iter().map(|tenant| (*tenant).to_owned()).collect(),
            about: String::new(),
        }
    }

    #[test]
    fn lists_shares_and_the_main_switch() {
        let off = FlagConfig { enabled: false, ..flag("off", 100.0, &["ada"]) };
        let flags = Flags::new(&[flag("all", 100.0, &[]), flag("listed", 0.0, &["ada"]), off]);
        let has = |name: &str, tenant: &str| flags.enabled(name, tenant);
        assert!(has("all", "ada") && has("all", "bob") && has("listed", "ada"));
        assert!(!has("listed", "bob") && !has("off", "ada") && !has("unknown", "ada"));
    }

    #[test]
    fn a_share_is_as_large_as_it_says_and_only_grows() {
        let tenants: Vec<String> = (0..10_000).map(|number| format!("tenant-{number}")).collect();
        let mut before = vec![false; tenants.len()];
        for percent in [0.0, 0.5, 10.0, 50.0, 99.0, 100.0] {
            let flag = flag("share", percent, &[]);
            let now: Vec<bool> = tenants.iter().map(|tenant| flag.has(tenant)).collect();
            assert!(before.iter().zip(&now).all(|(before, now)| !before || *now), "{percent}");
            let share = now.iter().filter(|has| **has).count() as f64 / 100.0;
            // Four standard deviations of 10,000 draws are 2 percent points at most.
            assert!((share - percent).abs() < 2.0, "{percent}: {share}");
            before = now;
        }
        // Another flag chooses others: they agree on about half.
        let (one, other) = (flag("share", 50.0, &[]), flag("else", 50.0, &[]));
        let same = tenants.iter().filter(|tenant| one.has(tenant) == other.has(tenant)).count();
        assert!((4_500..5_500).contains(&same), "{same}");
    }

    #[test]
    fn places_are_the_same_at_every_server() {
        // Worked out once; a change of these moves tenants between the sides of every running roll-out.
        for (flag, tenant, expected) in PLACES {
            assert!((place(flag, tenant) - expected).abs() < 1e-9, "{flag} {tenant} {}", place(flag, tenant));
        }
    }

    const PLACES: [(&str, &str, f64); 2] =
        [("semantic_cache", "ada", 63.290_479_235_187_37), ("semantic_cache", "key-0123", 22.297_155_827_063_452)];

    #[test]
    fn a_change_lasts_until_the_next_reload() {
        let flags = Flags::new(&[flag("x", 0.0, &[])]);
        let clone = flags.clone();
        let change = FlagChange { percent: Some(100.0), ..FlagChange::default() };
        let changed = flags.change("x", change.clone()).unwrap();
        assert!(changed.changed && changed.config.enabled && clone.enabled("x", "ada"));
        assert_eq!(flags.change("y", change), None);
        assert!(flags.get("y").is_none() && flags.list().len() == 1);
        flags.replace(&[flag("x", 0.0, &[])]);
        assert!(!clone.enabled("x", "ada") && !flags.get("x").unwrap().changed);
    }
}
