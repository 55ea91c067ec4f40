//! The machine a number was measured on: a figure without it says little.

use serde_json::{Value, json};

/// What runs here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Name of the processor, as it calls itself.
    pub cpu: String,
    /// Worker threads of a step.
    pub threads: usize,
    /// Instruction set of the kernels.
    pub isa: &'static str,
    /// Memory of the machine, bytes; 0 where unknown.
    pub memory: u64,
    /// Operating system and processor architecture.
    pub platform: String,
}

impl Machine {
    /// Asks the operating system.
    pub fn detect() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            cpu: cpu_name(&read("/proc/cpuinfo")).unwrap_or_else(|| "unknown".into()),
            threads: engram_kernels::pool().threads(),
            isa: engram_kernels::isa().name(),
            memory: memory_bytes(&read("/proc/meminfo")).unwrap_or(0),
            platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
        }
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "cpu": self.cpu,
            "threads": self.threads,
            "isa": self.isa,
            "memory_bytes": self.memory,
            "platform": self.platform,
        })
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {} threads, {}, {} GiB, {}", self.cpu, self.threads, self.isa, self.memory >> 30, self.platform)
    }
}

fn cpu_name(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn procfs() {
        assert_eq!(cpu_name("processor\t: 0\nmodel name\t: A CPU\n").as_deref(), Some("A CPU"));
        assert_eq!(cpu_name(""), None);
        assert_eq!(memory_bytes("MemTotal:       1024 kB\n"), Some(1 << 20));
        assert_eq!(memory_bytes("MemTotal:"), None);
    }
}
