//! The folder in which a program of llama.cpp was built, if it runs from there.

use crate::root::Root;

/// A cache of CMake is a hundred thousand bytes long.
const CACHE_BYTES_MAX: usize = 1 << 20;

/// The source of the attention that rocWMMA brings. llama.cpp has dropped it, and then the switch in an old cache switches nothing.
const ROCWMMA_SOURCE: &str = "ggml/src/ggml-cuda/fattn-wmma-f16.cu";

/// Whether a process runs flash attention on rocWMMA, as its build tree says; `None` if it does not run from one.
pub(super) fn rocwmma(root: &Root, pid: u32) -> Option<bool> {
    let program = root.link(&format!("/proc/{pid}/exe")).ok()?;
    let (folder, _) = program.rsplit_once('/')?;
    let tree = folder.strip_suffix("/bin")?;
    let cache = root
        .text_up_to(&format!("{tree}/CMakeCache.txt"), CACHE_BYTES_MAX)
        .ok()?;
    let is_on = |name| Some(matches!(value(&cache, name)?, "ON" | "1" | "TRUE" | "YES"));
    let hip = is_on("GGML_HIP")?;
    let asked = is_on("GGML_HIP_ROCWMMA_FATTN").unwrap_or(false);
    let source = value(&cache, "CMAKE_HOME_DIRECTORY")?;
    Some(hip && asked && root.has(&format!("{source}/{ROCWMMA_SOURCE}")))
}

/// The value in a line `NAME:TYPE=VALUE`.
fn value<'a>(cache: &'a str, name: &str) -> Option<&'a str> {
    cache.lines().find_map(|line| {
        let typed = line.strip_prefix(name)?.strip_prefix(':')?;
        let (_, value) = typed.split_once('=')?;
        Some(value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::{Bundle, Entry, Special};

    fn told(cache: &str, with_source: bool) -> Option<bool> {
        let mut bundle = Bundle::default();
        let exe = Entry::Special(Special {
            link: Some("/src/llama.cpp/build/bin/llama-server".to_owned()),
            ..Special::default()
        });
        let mut put = |path: &str, entry| bundle.files.insert(path.to_owned(), entry);
        put("/proc/7/exe", exe);
        put(
            "/src/llama.cpp/build/CMakeCache.txt",
            Entry::Text(cache.to_owned()),
        );
        if with_source {
            let path = format!("/src/llama.cpp/{ROCWMMA_SOURCE}");
            put(&path, Entry::Text(String::new()));
        }
        rocwmma(&Root::bundle(bundle), 7)
    }

    #[test]
    fn a_build_has_it_if_it_was_asked_for_and_is_still_there() {
        let home = "CMAKE_HOME_DIRECTORY:INTERNAL=/src/llama.cpp\n";
        let on = format!("{home}GGML_HIP:BOOL=ON\nGGML_HIP_ROCWMMA_FATTN:BOOL=ON\n");
        assert_eq!(told(&on, true), Some(true));
        assert_eq!(told(&on, false), Some(false));
        let off = on.replace("FATTN:BOOL=ON", "FATTN:BOOL=OFF");
        assert_eq!(told(&off, true), Some(false));
        let vulkan = on.replace("GGML_HIP:BOOL=ON", "GGML_HIP:BOOL=OFF");
        assert_eq!(told(&vulkan, true), Some(false));
        assert_eq!(told("CMAKE_PROJECT_NAME:STATIC=other\n", true), None);
        assert_eq!(told("", true), None);
    }

    #[test]
    fn a_program_that_is_installed_tells_nothing() {
        assert_eq!(rocwmma(&Root::bundle(Bundle::default()), 7), None);
    }
}
