//! Settings for AI programs that lie around in the environment: the leftovers of old advice.

use serde::{Deserialize, Serialize};

use super::Known;

/// Settings for AI programs in environments: `HSA_*`, `HIP_*`, `ROCBLAS_*`, `ROCR_*`, `GGML_*`, `LLAMA_*`, `OLLAMA_*`, `VK_*`, `AMD_*`, `RADV_*`,
/// `GPU_*`, `CUDA_*`, `MKL_*` and `LD_LIBRARY_PATH`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Environment {
    /// Of `/etc/environment`, `/etc/environment.d`, `/etc/profile.d`, `/etc/security/pam_env.conf` and the units of known services.
    pub configured: Known<Vec<Setting>>,
    /// Of the process that looked.
    pub own: Known<Vec<Setting>>,
    /// Of running programs that serve models, as far as their environment is readable.
    pub running: Known<Vec<Setting>>,
}

/// One variable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value; that of keys and tokens is never taken.
    pub value: String,
    /// The file that sets it.
    pub file: String,
}
