//! The device to compute on: parsing of `--device`, and the search for a device that can be used.

use anyhow::{Context, Result};

use crate::net::Network;

/// A device to compute on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The CPU.
    Cpu,
    /// The GPU with this number.
    #[cfg(feature = "cuda")]
    Cuda(usize),
}

/// The names that `--device` accepts; the last one may be followed by a number, as in `cuda:1`.
pub const DEVICES: [&str; 3] = ["auto", "cpu", "cuda"];

/// Returns whether `name` is `auto`, `cpu`, `cuda` or `cuda:N`.
pub fn is_known(name: &str) -> bool {
    match name.strip_prefix("cuda:") {
        Some(index) => index.parse::<u16>().is_ok(),
        None => DEVICES.contains(&name),
    }
}

impl Device {
    /// Finds the device that `--device` asks for. `auto` is a GPU if a driver, a GPU and NVRTC are found, and
    /// otherwise the CPU.
    ///
    /// # Errors
    /// Returns an error if a GPU was asked for and cannot be used.
    pub fn find(asked: &str) -> Result<Device> {
        if asked == "cpu" {
            return Ok(Device::Cpu);
        }
        let index = match asked.strip_prefix("cuda:") {
            Some(index) => index.parse::<u16>().ok(),
            None => DEVICES.contains(&asked).then_some(0),
        };
        let index = index.with_context(|| format!("--device {asked}: expected auto, cpu, cuda or cuda:N"))?;
        match Device::cuda(index.into()) {
            Err(e) if asked == "auto" => {
                log::debug!("computing on the CPU: {e:#}");
                Ok(Device::Cpu)
            }
            found => found.map_err(|e| e.context(format!("--device {asked}"))),
        }
    }

    /// Finds the device for a network and some data sets, of which the shape of the images and the number of
    /// classes are given, like [`Device::find`]; `auto` is the CPU if the GPU has no kernels for one of them.
    ///
    /// # Errors
    /// Returns an error if a GPU was asked for and cannot be used, or if the device cannot run the network.
    pub fn find_for(asked: &str, network: &Network, datasets: &[([usize; 3], usize)]) -> Result<Device> {
        let found = Device::find(asked)?;
        match found.supports(network, datasets) {
            Ok(()) => Ok(found),
            Err(lacks) if asked == "auto" => {
                log::info!("computing on the CPU: {lacks}");
                Ok(Device::Cpu)
            }
            Err(lacks) => anyhow::bail!("--device {asked}: {lacks}; use --device cpu"),
        }
    }

    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    fn supports(self, network: &Network, datasets: &[([usize; 3], usize)]) -> Result<(), String> {
        match self {
            Device::Cpu => crate::backend::check(network),
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => datasets
                .iter()
                .try_for_each(|&(shape, classes)| crate::backend::cuda::supports(network, shape, classes)),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda(index: usize) -> Result<Device> {
        crate::backend::cuda::device::usable(index)?;
        Ok(Device::Cuda(index))
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda(_: usize) -> Result<Device> {
        anyhow::bail!("this build has no CUDA support; use --device cpu or --device auto")
    }

    /// Returns whether this is a GPU.
    pub fn is_cuda(self) -> bool {
        self != Device::Cpu
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_always_finds_one() {
        assert_eq!(Device::find("cpu").expect("a CPU"), Device::Cpu);
        Device::find("auto").expect("the CPU at the least");
        for unknown in ["gpu", "cuda:", "cuda:x", "CPU"] {
            let text = format!("{:#}", Device::find(unknown).expect_err("no device"));
            assert!(text.contains("expected auto, cpu, cuda or cuda:N"), "{text}");
        }
        let text = format!("{:#}", Device::find("cuda:999").expect_err("no such GPU"));
        assert!(text.starts_with("--device cuda:999: "), "{text}");
        assert!(
            ["cuda", "cuda:0", "auto", "cpu"].into_iter().all(is_known)
                && !is_known("cuda:x")
                && !is_known("gpu")
        );
    }
}
