//! Taking the address early and listening late.
//!
//! A socket that is bound but does not listen yet holds the port: a second server learns at once that
//! it is taken, while clients are refused until there is somebody to answer them.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use anyhow::{Context, anyhow, bail};
use tokio::net::{TcpListener, TcpSocket};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// What a host name or address stands for.
pub fn addresses(host: &str, port: u16) -> anyhow::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let found = (host, port).to_socket_addrs();
    let found: Vec<SocketAddr> =
        found.with_context(|| format!("`server.host`: {host:?} cannot be resolved"))?.collect();
    if found.is_empty() {
        bail!("`server.host`: {host:?} has no address");
    }
    Ok(found)
}

/// Takes the first of the addresses that this machine has.
pub fn take(addresses: &[SocketAddr]) -> anyhow::Result<TcpSocket> {
    let mut failure = None;
    for address in addresses {
        match take_one(*address) {
            Ok(socket) => return Ok(socket),
            Err(error) => failure = Some(explain(*address, &error)),
        }
    }
    Err(failure.unwrap_or_else(|| anyhow!("there is no address to listen on")))
}

fn take_one(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart need not wait until the kernel has forgotten the last server's connections.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Listens on a taken address.
pub fn listen(socket: TcpSocket) -> anyhow::Result<TcpListener> {
    let address = socket.local_addr()?;
    socket.listen(BACKLOG).map_err(|error| explain(address, &error))
}

fn explain(address: SocketAddr, error: &std::io::Error) -> anyhow::Error {
    let port = address.port();
    match error.kind() {
        ErrorKind::AddrInUse => anyhow!(
            "port {port} of {} is in use: stop what listens there, or choose another with --port (0 takes a free one)",
            address.ip()
        ),
        ErrorKind::PermissionDenied => {
            anyhow!("port {port} may not be used by this user: choose one from 1024 up with --port")
        }
        ErrorKind::AddrNotAvailable => {
            anyhow!("{} is no address of this machine: choose another with --host", address.ip())
        }
        _ => anyhow!("cannot listen on {address}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_refused_with_the_cure() {
        let first = listen(take(&addresses("127.0.0.1", 0).unwrap()).unwrap()).unwrap();
        let taken = first.local_addr().unwrap();
        let refused = take(&[taken]).and_then(listen).unwrap_err().to_string();
        assert!(refused.contains("is in use") && refused.contains("--port"), "{refused}");
        let foreign = take(&addresses("192.0.2.1", 0).unwrap()).unwrap_err().to_string();
        assert!(foreign.contains("192.0.2.1 is no address of this machine"), "{foreign}");
    }

    #[tokio::test]
    async fn until_it_listens_clients_are_refused() {
        let socket = take(&addresses("localhost", 0).unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        assert!(tokio::net::TcpStream::connect(address).await.is_err());
        let _listener = listen(socket).unwrap();
        assert!(tokio::net::TcpStream::connect(address).await.is_ok());
    }

    #[test]
    fn names_that_are_none() {
        let error = addresses("no-such-host.invalid", 1).unwrap_err().to_string();
        assert!(error.contains("`server.host`"), "{error}");
    }
}
