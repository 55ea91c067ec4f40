//! The device a model runs on: asked for by name, refused with the reason.

use anyhow::bail;

use crate::config::Device;

/// Opens the device; `auto` takes the first GPU if this build has CUDA and a driver is there.
pub fn open(wanted: Device) -> anyhow::Result<candle_core::Device> {
    match wanted {
        Device::Cpu => Ok(candle_core::Device::Cpu),
        Device::Cuda(number) => match open_cuda(number) {
            Ok(device) => Ok(device),
            Err(reason) => bail!("`model.device`: cuda:{number} cannot be used: {reason}"),
        },
        Device::Auto => Ok(open_cuda(0).unwrap_or_else(|reason| {
            tracing::debug!(%reason, "no GPU: running on the CPU");
            candle_core::Device::Cpu
        })),
    }
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(_number: usize) -> Result<candle_core::Device, String> {
    Err("this build has no CUDA; build it with `cargo build --release --features cuda`, or use --device cpu".into())
}

#[cfg(feature = "cuda")]
fn open_cuda(number: usize) -> Result<candle_core::Device, String> {
    // Without a driver the CUDA loader panics instead of failing; here that is only one more reason.
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let opened = std::panic::catch_unwind(|| candle_core::Device::new_cuda(number));
    std::panic::set_hook(quiet);
    match opened {
        Ok(Ok(device)) => Ok(device),
        Ok(Err(error)) => Err(format!("{error}; `nvidia-smi` lists the GPUs, --device cpu needs none")),
        Err(_) => Err("the CUDA driver (libcuda.so.1) cannot be loaded; install it, or use --device cpu".into()),
    }
}

/// The device as people call it.
pub fn name(device: &candle_core::Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".into(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_always_and_cuda_only_where_it_is() {
        assert_eq!(name(&open(Device::Cpu).unwrap()), "cpu");
        assert!(open(Device::Auto).is_ok());
        if cfg!(not(feature = "cuda")) {
            let error = open(Device::Cuda(0)).unwrap_err().to_string();
            assert!(error.contains("`model.device`: cuda:0") && error.contains("--features cuda"), "{error}");
        }
    }
}
