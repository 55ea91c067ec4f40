//! What `engram serve` prints once it listens: what runs, in how much memory, and a line to try it.

use std::net::SocketAddr;
use std::time::Duration;

use engram_benches::machine::Machine;

use super::load::Local;
use crate::auth::is_loopback;
use crate::config::{Config, MemoryBackend, human_size};

/// Facts of a server that has just begun to listen.
pub struct Ready<'a> {
    pub address: SocketAddr,
    pub admin: Option<SocketAddr>,
    /// The model here; `None`: only backends answer.
    pub local: Option<&'a Local>,
    /// Servers that may be asked.
    pub backends: usize,
    pub config: &'a Config,
    /// API keys that open.
    pub keys: usize,
    /// None is asked for.
    pub open: bool,
    pub machine: &'a Machine,
    pub took: Duration,
}

impl Ready<'_> {
    /// The text; `host` is what was configured, for a name says more than its address.
    pub fn text(&self, host: &str) -> String {
        let url = url(if self.config.tls.is_some() { "https" } else { "http" }, host, self.address);
        format!(
            "engram {version} is ready on {url} after {took:.1} s\n\
             {model}\
             \x20 memory    {memory}\n\
             {compute}\
             {backends}\
             \x20 access    {access}\n\
             {admin}\
             \nTry it:\n\n{curl}\n\n",
            version = env!("CARGO_PKG_VERSION"),
            took = self.took.as_secs_f64(),
            model = self.model(),
            memory = self.memory(),
            compute = self.compute(),
            backends = self.backends(),
            access = self.access(),
            admin = self.admin.map_or_else(String::new, |at| format!("  admin     {at}: metrics and /v1/admin\n")),
            curl = self.curl(&url),
        )
    }

    fn model(&self) -> String {
        let Some(local) = self.local else {
            return "  model     none here\n".into();
        };
        let capacity = local.engine.capacity();
        let limit = match capacity.kv_tokens < capacity.max_len {
            // One request could use the whole context, but the cache holds less.
            true => format!("{} tokens (of {}: raise --kv-memory for more)", capacity.kv_tokens, capacity.max_len),
            false => format!("{} tokens", capacity.max_len),
        };
        format!(
            "  model     {id}, {size} from {source}, context {limit}\n\
             \x20 KV cache  {kv}: {blocks} blocks of {block_size} = {kv_tokens} tokens in {kv_dtype}\n",
            id = local.id,
            size = human_size(local.bytes),
            source = local.source,
            kv = human_size(capacity.kv_bytes as u64),
            blocks = capacity.num_blocks,
            block_size = self.config.engine.block_size,
            kv_tokens = capacity.kv_tokens,
            kv_dtype = self.config.engine.kv_dtype.name(),
        )
    }

    fn compute(&self) -> String {
        let Self { local, machine, .. } = self;
        local.map_or_else(String::new, |local| {
            format!("  compute   {}, {} threads, {}\n", local.device, machine.threads, machine.isa)
        })
    }

    fn backends(&self) -> String {
        match (self.backends, self.local) {
            (0, Some(_)) => String::new(),
            (0, None) => "  backends  NONE: nobody answers; name some under [backends.*] of a config file\n".into(),
            (backends, _) => format!("  backends  {backends}, see /v1/admin/backends\n"),
        }
    }

    fn memory(&self) -> String {
        let memory = &self.config.memory;
        match &memory.backend {
            _ if !memory.enabled => "off (`memory.enabled`)".into(),
            MemoryBackend::Embedded => format!("{}, encoder {}", memory.dir.display(), memory.encoder),
            MemoryBackend::Postgres { schema, .. } => {
                format!("PostgreSQL, schema {schema}, encoder {}", memory.encoder)
            }
            MemoryBackend::Qdrant { url, .. } => format!("Qdrant at {url}, encoder {}", memory.encoder),
        }
    }

    fn access(&self) -> String {
        match self.keys {
            _ if self.open && is_loopback(self.address.ip()) => "this machine only, no API key".into(),
            _ if self.open => "EVERYONE who reaches the port, no API key (--insecure-no-auth)".into(),
            0 => "no API key opens now: make one with `engram keys create NAME`".into(),
            1 => "1 API key".into(),
            keys => format!("{keys} API keys"),
        }
    }

    /// A command that can be pasted into a shell as it is.
    fn curl(&self, url: &str) -> String {
        let key = if self.open { "" } else { "  -H \"Authorization: Bearer $ENGRAM_API_KEY\" \\\n" };
        let body = serde_json::json!({
            "model": self.local.map_or("auto", |local| &local.id),
            "stream": true,
            "messages": [{ "role": "user", "content": "Write a Rust function that reverses a string." }],
        });
        // Single quotes hold everything but single quotes.
        let body = body.to_string().replace('\'', "'\\''");
        format!("curl -N {url}/v1/chat/completions \\\n{key}  -H 'Content-Type: application/json' \\\n  -d '{body}'")
    }
}

/// Where a client on this machine finds the server.
fn url(scheme: &str, host: &str, address: SocketAddr) -> String {
    let ip = address.ip();
    let shown = match ip {
        _ if ip.is_unspecified() && ip.is_ipv4() => "127.0.0.1".to_owned(),
        _ if ip.is_unspecified() => "[::1]".to_owned(),
        _ if host.parse::<std::net::IpAddr>().is_err() => host.to_owned(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        std::net::IpAddr::V4(ip) => ip.to_string(),
    };
    format!("{scheme}://{shown}:{}", address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_can_be_pasted() {
        for (host, address, expected) in [
            ("127.0.0.1", "127.0.0.1:80", "http://127.0.0.1:80"),
            ("::1", "[::1]:80", "http://[::1]:80"),
            ("0.0.0.0", "0.0.0.0:80", "http://127.0.0.1:80"),
            ("::", "[::]:80", "http://[::1]:80"),
            ("localhost", "127.0.0.1:80", "http://localhost:80"),
        ] {
            assert_eq!(url("http", host, address.parse().unwrap()), expected);
        }
    }
}
