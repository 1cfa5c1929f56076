//! What `vulkaninfo` without `--summary` tells of each device.

use super::{Because, Known, VulkanDevice};
use crate::root::{Command, ReadError};

pub(crate) const EXTENSION: &str = "VK_KHR_shader_bfloat16";
pub(crate) const FEATURE: &str = "shaderBFloat16CooperativeMatrix";

/// Where the part about devices begins.
pub(crate) const DEVICES: &str = "Device Properties and Extensions:";

/// What one device says of itself.
#[derive(Debug, Default)]
struct Features {
    /// Whether it lists any extension, so that those that it does not list can be said to be missing.
    extensions: bool,
    bfloat16: bool,
    bfloat16_matrices: Option<bool>,
}

/// Tells the devices of the summary what the long form says of them. Both go through them in the same order.
pub(super) fn complete(devices: &mut [VulkanDevice], answer: Result<String, ReadError>) {
    let source = Command::VulkanFeatures.typed();
    let told = match answer {
        Ok(text) => features(&text),
        Err(error) => {
            // Its summary was told, so the program is there.
            let error = match error.because {
                Because::Absent => ReadError::new(source, Because::NotCollected),
                _ => error,
            };
            for device in devices {
                device.bfloat16_matrices = error.clone().into();
            }
            return;
        }
    };
    let same = told.len() == devices.len();
    for (index, device) in devices.iter_mut().enumerate() {
        let unknown = |why: &str| Known::unknown(Because::Malformed, format!("{source} {why}"));
        let features = told.get(index).filter(|_| same);
        device.bfloat16_matrices = match features {
            None => unknown("tells of other devices than its summary"),
            Some(features) => match (features.bfloat16_matrices, features.bfloat16) {
                (Some(has), _) => Known::value(has, &source),
                (None, false) if features.extensions => Known::value(false, &source),
                (None, _) => unknown("is too old to tell of BF16"),
            },
        };
    }
}

fn features(text: &str) -> Vec<Features> {
    let mut devices = Vec::<Features>::new();
    let lines = text.lines().skip_while(|line| line.trim_end() != DEVICES);
    for line in lines.take(1 << 16) {
        let line = line.trim_end();
        if line.starts_with("GPU") && line.ends_with(':') && devices.len() < 64 {
            devices.push(Features::default());
        }
        let Some(device) = devices.last_mut() else {
            continue;
        };
        device.extensions |= line.starts_with("Device Extensions:");
        if let Some((name, value)) = line.trim_start().split_once(' ') {
            let value = value.trim_start();
            match name {
                EXTENSION => device.bfloat16 = true,
                FEATURE if value == "= true" => device.bfloat16_matrices = Some(true),
                FEATURE if value == "= false" => device.bfloat16_matrices = Some(false),
                _ => {}
            }
        }
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The long form, laid out as vulkan-tools does, with what is told of two devices.
    fn long(first: &str, second: &str) -> String {
        format!(
            "VULKANINFO\n\nGPU0:\n\tVK_KHR_shader_bfloat16 : of no device\n{DEVICES}\n====\nGPU0:\n{first}\nGPU1:\n{second}\n"
        )
    }

    fn told(answer: &str) -> Vec<Option<bool>> {
        let mut devices = vec![VulkanDevice::default(), VulkanDevice::default()];
        complete(&mut devices, Ok(answer.to_owned()));
        let told = devices.iter().map(|device| &device.bfloat16_matrices);
        told.map(Known::copied).collect()
    }

    #[test]
    fn a_device_has_what_it_says_that_it_has() {
        let extensions =
            "Device Extensions: count = 2\n\tVK_KHR_16bit_storage : extension revision 1\n";
        let bfloat16 = format!("{extensions}\tVK_KHR_shader_bfloat16 : extension revision 1\n");
        let structure = "VkPhysicalDeviceShaderBfloat16FeaturesKHR:\n\tshaderBFloat16Type              = true\n\tshaderBFloat16CooperativeMatrix = ";
        let yes = format!("{bfloat16}{structure}true\n");
        let no = format!("{bfloat16}{structure}false\n");
        assert_eq!(told(&long(&yes, &no)), [Some(true), Some(false)]);
        // Without the extension there is nothing; a program that does not know the structure cannot tell.
        assert_eq!(told(&long(extensions, &bfloat16)), [Some(false), None]);
        assert_eq!(told(&long("", "")), [None, None]);
    }

    #[test]
    fn devices_that_cannot_be_matched_are_not_guessed() {
        assert_eq!(
            told(&format!("{DEVICES}\nGPU0:\nDevice Extensions: count = 0\n")),
            [None, None]
        );
        assert_eq!(told(""), [None, None]);
        let mut devices = [VulkanDevice::default()];
        complete(
            &mut devices,
            Err(ReadError::new("vulkaninfo", Because::TimedOut)),
        );
        assert_eq!(
            devices[0].bfloat16_matrices.why().unwrap().0,
            Because::TimedOut
        );
    }
}
