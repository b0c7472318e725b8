//! The device to compute on: parsing of `--device`, and the search for a device that can be used.

use anyhow::{Context, Result};

use super::cuda::{self, device::usable};
use crate::net::Network;

/// A device to compute on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The CPU.
    Cpu,
    /// The GPU with this number.
    Cuda(usize),
}

/// The names that `--device` accepts; the last one may be followed by a number, as in `cuda:1`.
pub const DEVICES: [&str; 3] = ["auto", "cpu", "cuda"];

/// Returns whether `name` is `auto`, `cpu`, `cuda` or `cuda:N`.
pub fn is_known(name: &str) -> bool {
    name == "cpu" || gpu(name).is_some()
}

/// Returns the number of the GPU that `cuda:N` stands for; `auto` and `cuda` stand for GPU 0.
fn gpu(name: &str) -> Option<u16> {
    match name.strip_prefix("cuda:") {
        Some(index) => index.parse().ok(),
        None => ["auto", "cuda"].contains(&name).then_some(0),
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
        let index =
            gpu(asked).with_context(|| format!("--device {asked}: expected auto, cpu, cuda or cuda:N"))?;
        match usable(index.into()) {
            Ok(()) => Ok(Device::Cuda(index.into())),
            Err(e) if asked == "auto" => {
                log::debug!("computing on the CPU: {e}");
                Ok(Device::Cpu)
            }
            Err(e) => Err(e).with_context(|| format!("--device {asked}")),
        }
    }

    /// Finds the device for a network and some data sets, of which the shape of the images and the number of
    /// classes are given, like [`Device::find`]; `auto` is the CPU if the GPU has no kernels for one of them.
    ///
    /// # Errors
    /// Returns an error if no device can run the network, or if a GPU was asked for and cannot be used or has
    /// no kernels.
    pub fn find_for(asked: &str, network: &Network, datasets: &[([usize; 3], usize)]) -> Result<Device> {
        super::check(network).map_err(anyhow::Error::msg)?;
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

    fn supports(self, network: &Network, datasets: &[([usize; 3], usize)]) -> Result<(), String> {
        match self {
            Device::Cpu => Ok(()),
            Device::Cuda(_) => {
                datasets.iter().try_for_each(|&(shape, classes)| cuda::supports(network, shape, classes))
            }
        }
    }

    /// Returns whether this is a GPU.
    pub fn is_cuda(self) -> bool {
        self != Device::Cpu
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Arch;

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

    /// The message blames no device and recommends no other one, because none can run the network.
    #[test]
    fn networks_that_no_device_can_run_are_refused_on_all_devices() {
        let network = Arch::Features(8).network();
        for asked in ["auto", "cpu", "cuda"] {
            let refused = Device::find_for(asked, &network, &[([32, 32, 3], 10)]).expect_err("no images");
            assert_eq!(
                format!("{refused:#}"),
                "features-8: this is a classifier on imported features; it cannot process images"
            );
        }
    }
}
