//! `[admin]`: where metrics and admin routes answer.

use super::ConfigError;
use super::getter::Getter;

/// `[admin]`; what is unset follows from where the API listens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdminConfig {
    /// Address or name to listen on.
    pub host: Option<String>,
    /// TCP port; 0 takes a free one.
    pub port: Option<u16>,
}

pub(super) fn build(get: &Getter<'_>, errors: &mut Vec<ConfigError>) -> AdminConfig {
    let port = get.optional_number("admin.port").map(|port| port as u16);
    let api = get.number("server.port") as u16;
    if port.is_some_and(|port| port != 0 && port == api) {
        errors.push(get.bad(
            "admin.port",
            format!("{api} is `server.port` too; choose another, or leave `admin` out to have both on one port"),
        ));
    }
    AdminConfig { host: get.optional_text("admin.host"), port }
}
