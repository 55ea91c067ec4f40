//! Which instruction set the kernels use: read once from the processor, or forced by `ENGRAM_ISA`.
//!
//! Each kernel has one scalar definition and twins per instruction set; [`isa`] is what they branch on.

use std::sync::OnceLock;

use crate::error::KernelError;

/// An instruction set with kernels of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust: the definition of every kernel.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C (Haswell, Zen and later).
    Avx2,
    /// AVX2 and the VNNI dot products on its registers (Alder Lake, Sierra Forest).
    AvxVnni,
    /// AVX-512 F, BW, VL, DQ and VNNI (Cascade Lake, Zen 4 and later).
    Avx512,
    /// 64-bit ARM with int8 dot products (Neoverse N1, Apple M1 and later); int8 matrix products (i8mm: Neoverse V1, Grace,
    /// Apple M2 and later) are used where the processor has them.
    Neon,
}

impl Isa {
    /// Every one, the least first.
    pub const ALL: [Isa; 5] = [Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512, Isa::Neon];

    /// The name `ENGRAM_ISA` knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
        }
    }

    /// Whether this processor runs it.
    #[cfg(target_arch = "x86_64")]
    pub fn available(self) -> bool {
        let avx2 =
            || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        match self {
            Isa::Scalar => true,
            Isa::Avx2 => avx2(),
            Isa::AvxVnni => avx2() && is_x86_feature_detected!("avxvnni"),
            Isa::Avx512 => {
                avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            Isa::Neon => false,
        }
    }

    /// Whether this processor runs it.
    #[cfg(target_arch = "aarch64")]
    pub fn available(self) -> bool {
        match self {
            Isa::Scalar => true,
            Isa::Neon => std::arch::is_aarch64_feature_detected!("dotprod"),
            Isa::Avx2 | Isa::AvxVnni | Isa::Avx512 => false,
        }
    }

    /// Whether this processor runs it.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub fn available(self) -> bool {
        self == Isa::Scalar
    }

    /// The best one this processor runs.
    pub fn best() -> Self {
        Isa::ALL.into_iter().rev().find(|isa| isa.available()).unwrap_or(Isa::Scalar)
    }

    /// Itself where the processor runs it, the scalar definition elsewhere.
    pub fn or_scalar(self) -> Self {
        if self.available() { self } else { Isa::Scalar }
    }

    /// What a value of `ENGRAM_ISA` asks for; `None` is the best there is.
    ///
    /// Errors: [`KernelError::UnknownIsa`], [`KernelError::MissingIsa`].
    pub fn from_setting(value: Option<&str>) -> Result<Self, KernelError> {
        let Some(name) = value.filter(|name| !name.is_empty()) else { return Ok(Isa::best()) };
        let Some(isa) = Isa::ALL.into_iter().find(|isa| isa.name() == name) else {
            return Err(KernelError::UnknownIsa { value: name.to_owned() });
        };
        if isa.available() { Ok(isa) } else { Err(KernelError::MissingIsa { name: isa.name() }) }
    }
}

/// The instruction set in use, or why `ENGRAM_ISA` cannot be followed; ask at start and tell the user.
pub fn checked_isa() -> Result<Isa, KernelError> {
    static CHOSEN: OnceLock<Result<Isa, KernelError>> = OnceLock::new();
    CHOSEN.get_or_init(|| Isa::from_setting(std::env::var("ENGRAM_ISA").ok().as_deref())).clone()
}

/// The instruction set in use; the best one where `ENGRAM_ISA` cannot be followed ([`checked_isa`] says so).
pub fn isa() -> Isa {
    static ISA: OnceLock<Isa> = OnceLock::new();
    *ISA.get_or_init(|| checked_isa().unwrap_or_else(|_| Isa::best()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_followed_or_refused_by_name() {
        assert_eq!(Isa::from_setting(None), Ok(Isa::best()));
        assert_eq!(Isa::from_setting(Some("")), Ok(Isa::best()));
        assert_eq!(Isa::from_setting(Some("scalar")), Ok(Isa::Scalar));
        let unknown = Isa::from_setting(Some("sse9"));
        assert_eq!(unknown, Err(KernelError::UnknownIsa { value: "sse9".into() }));
        assert!(Isa::best().available());
        for isa in Isa::ALL {
            let followed = if isa.available() { Ok(isa) } else { Err(KernelError::MissingIsa { name: isa.name() }) };
            assert_eq!(Isa::from_setting(Some(isa.name())), followed);
            assert_eq!(isa.or_scalar(), followed.unwrap_or(Isa::Scalar));
        }
        // The message for an unknown one names them all.
        let message = KernelError::UnknownIsa { value: "sse9".into() }.to_string();
        let names = Isa::ALL.map(Isa::name).join(", ");
        assert!(message.ends_with(&names), "{message}: {names}");
    }

    #[test]
    fn an_architecture_has_only_its_own() {
        let (x86, arm) = (cfg!(target_arch = "x86_64"), cfg!(target_arch = "aarch64"));
        for isa in Isa::ALL {
            let may_be = match isa {
                Isa::Scalar => true,
                Isa::Avx2 | Isa::AvxVnni | Isa::Avx512 => x86,
                Isa::Neon => arm,
            };
            assert!(may_be || !isa.available(), "{}", isa.name());
        }
    }
}
