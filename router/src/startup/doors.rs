//! Where the server listens: one door, or a second one for metrics and admin routes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, bail};
use tokio::net::{TcpListener, TcpSocket};

use super::bind;
use crate::app::Side;
use crate::auth::is_loopback;
use crate::config::Config;
use crate::server::Door;
use crate::tls::Tls;

/// Connections that the admin door takes: enough for scrapers, and apart from the API's, so that a full house can
/// still be looked into.
const ADMIN_CONNECTIONS: usize = 64;

/// Addresses that may be listened on, before any is taken.
pub struct Addresses {
    /// Of the API.
    pub api: Vec<SocketAddr>,
    /// Of the admin door, if it is another.
    pub admin: Option<Vec<SocketAddr>>,
}

impl Addresses {
    /// What the configuration says, and where it says nothing: one door on loopback; two beyond it, the admin one
    /// on loopback, a port further.
    pub fn find(config: &Config) -> anyhow::Result<Self> {
        let port = config.server.port;
        let api = bind::addresses(&config.server.host, port)?;
        let (host, admin_port) = (&config.admin.host, config.admin.port);
        if host.is_none() && admin_port.is_none() && api.iter().all(|address| is_loopback(address.ip())) {
            return Ok(Self { api, admin: None });
        }
        let admin_port = match (admin_port, port) {
            (Some(port), _) => port,
            (None, 0) => 0,
            (None, u16::MAX) => bail!("`admin.port`: there is no port after {port}; choose one"),
            (None, port) => port + 1,
        };
        let admin = match host {
            Some(host) => bind::addresses(host, admin_port).context("`admin.host`")?,
            None => vec![SocketAddr::from((Ipv4Addr::LOCALHOST, admin_port))],
        };
        Ok(Self { api, admin: Some(admin) })
    }

    /// All addresses that strangers might reach.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.api.iter().chain(self.admin.iter().flatten()).map(SocketAddr::ip)
    }

    /// Takes them; nobody is answered yet.
    pub fn take(&self) -> anyhow::Result<Taken> {
        let api = bind::take(&self.api)?;
        let admin = self.admin.as_deref().map(bind::take).transpose().context("`admin.port`")?;
        Ok(Taken { api, admin })
    }
}

/// Addresses that are held.
pub struct Taken {
    api: TcpSocket,
    admin: Option<TcpSocket>,
}

/// Doors that clients reach from now on.
pub struct Doors {
    /// Where the API answers.
    pub api: SocketAddr,
    /// Where metrics and admin routes answer, if that is elsewhere.
    pub admin: Option<SocketAddr>,
    /// Both, to be served.
    pub all: Vec<Door>,
}

impl Taken {
    /// Listens. TLS, where there is a certificate, is spoken at every door but an admin door on loopback.
    pub fn listen(self, config: &Config, tls: Option<&Tls>) -> anyhow::Result<Doors> {
        let listener = bind::listen(self.api)?;
        let api = listener.local_addr()?;
        let side = if self.admin.is_some() { Side::Api } else { Side::Both };
        let max_connections = config.server.max_connections;
        let mut all = vec![Door { listener, side, tls: tls.cloned(), max_connections }];
        let mut admin = None;
        if let Some(socket) = self.admin {
            let listener: TcpListener = bind::listen(socket)?;
            let address = listener.local_addr()?;
            let tls = tls.filter(|_| !is_loopback(address.ip())).cloned();
            all.push(Door { listener, side: Side::Admin, tls, max_connections: ADMIN_CONNECTIONS });
            admin = Some(address);
        }
        Ok(Doors { api, admin, all })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{FlagValue, Sources, resolve};

    type Settings<'a> = &'a [(&'static str, &'a str)];

    fn find(settings: Settings<'_>) -> anyhow::Result<Addresses> {
        let env = BTreeMap::from([("HOME".to_owned(), "/home/ada".to_owned())]);
        let flag = |(key, text): &(&'static str, &str)| FlagValue { key, flag: "--test", text: (*text).to_owned() };
        let flags = settings.iter().map(flag).collect();
        Addresses::find(&resolve(&Sources { files: Vec::new(), env, flags }).unwrap().config)
    }

    #[test]
    fn the_admin_door_is_apart_once_strangers_reach_the_api() {
        let table: &[(Settings<'_>, Option<&str>)] = &[
            (&[], None),
            (&[("server.host", "::1")], None),
            (&[("server.host", "0.0.0.0")], Some("127.0.0.1:8081")),
            (&[("server.host", "0.0.0.0"), ("server.port", "0")], Some("127.0.0.1:0")),
            (&[("server.host", "::"), ("admin.port", "9000")], Some("127.0.0.1:9000")),
            (&[("admin.port", "9000")], Some("127.0.0.1:9000")),
            (&[("admin.host", "0.0.0.0")], Some("0.0.0.0:8081")),
            (&[("server.host", "0.0.0.0"), ("admin.host", "::1"), ("admin.port", "0")], Some("[::1]:0")),
        ];
        for (settings, admin) in table {
            let found = find(settings).unwrap().admin.map(|admin| admin[0].to_string());
            assert_eq!(found.as_deref(), *admin, "{settings:?}");
        }
        let Err(error) = find(&[("server.host", "0.0.0.0"), ("server.port", "65535")]) else { panic!("found a port") };
        assert!(error.to_string().contains("`admin.port`"), "{error}");
    }
}
