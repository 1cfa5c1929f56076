//! Facts of the machines of `fixtures/machines`, of this one, and of machines that no one would want.

use std::time::{Duration, Instant};

use aluco_machine::{
    facts::{Because, BootLoader, ContainerKind, Fact, Facts, IommuMode, LinkKind, Request, Role},
    fixture,
    root::{Bundle, Entry, Root},
};
use proptest::prelude::*;

fn facts(name: &str) -> Facts {
    Facts::collect(&fixture::root(name), &Request::default())
}

fn text<'a>(facts: &'a aluco_machine::facts::FactTree, path: &str) -> &'a str {
    match facts.lookup(path) {
        Fact::Value { value, .. } => value.as_str().unwrap_or_else(|| panic!("{path}: {value}")),
        other => panic!("{path}: {other:?}"),
    }
}

#[test]
fn a_healthy_machine_is_known_in_full() {
    let facts = facts("strix-halo-fedora-healthy-128g");
    assert_eq!(facts.identity.strix_halo.copied(), Some(true));
    assert_eq!(facts.identity.gpu_name.get().unwrap(), "Radeon 8060S");
    assert_eq!(
        facts.identity.memory_bandwidth.copied(),
        Some(256_000_000_000)
    );
    assert_eq!(facts.cpu.cores.copied(), Some(16));
    assert_eq!(facts.cpu.threads.copied(), Some(32));
    assert!(facts.cpu.features.get().unwrap()["avx512_bf16"]);
    assert_eq!(facts.memory.installed_bytes.copied(), Some(128 << 30));
    assert_eq!(facts.memory.width_bits.copied(), Some(256));
    assert_eq!(facts.memory.total_bytes.copied(), Some(131_155_000 << 10));
    assert_eq!(facts.memory.zram_bytes.copied(), Some(0));
    assert_eq!(facts.board.bios_date.get().unwrap(), "2026-06-21");
    let gpu = facts.primary_gpu().unwrap();
    assert_eq!(gpu.slot.get().unwrap(), "0000:c3:00.0");
    assert_eq!(gpu.memory.gtt_total_bytes.copied(), Some(112 << 30));
    assert_eq!(gpu.clock_max_mhz("mclk"), Some(1000));
    assert_eq!(gpu.sensors.power_mw.copied(), Some(16_020));
    let metrics = gpu.metrics.get().unwrap();
    assert_eq!(metrics.gpu_temperature_cc, Some(3500));
    assert_eq!(metrics.stapm_limit_mw, None);
    let node = facts.kfd.gpu().unwrap();
    assert_eq!((&*node.target, node.compute_units), ("gfx1151", 40));
    assert_eq!(node.cwsr_size, Some(19_185_664));
    assert_eq!(facts.iommu.mode.copied(), Some(IommuMode::Passthrough));
    assert_eq!(facts.iommu.npu_mode.copied(), Some(IommuMode::Passthrough));
    assert_eq!(facts.firmware.mes.copied(), Some(0x88));
    assert_eq!(facts.firmware.release.copied(), Some(20_260_810));
    assert_eq!(facts.vulkan.mesa.get().unwrap(), "26.2.1");
    assert_eq!(facts.vulkan.amdvlk.copied(), Some(false));
    assert_eq!(facts.boot.loader.copied(), Some(BootLoader::Grubby));
    assert_eq!(
        facts.boot.configured_arguments.get().unwrap(),
        &["rhgb", "quiet", "iommu=pt", "ttm.pages_limit=29360128"]
    );
    assert_eq!(
        facts.power.tuned_profile.get().unwrap(),
        "accelerator-performance"
    );
    assert_eq!(facts.npu.firmware.get().unwrap(), "1.1.2.65");
    assert_eq!(facts.npu.driver.get().unwrap(), "amdxdna");
    assert_eq!(facts.limits.memlock_soft_bytes.copied(), Some(u64::MAX));
    assert_eq!(facts.container.inside.copied(), Some(ContainerKind::None));
    assert_eq!(facts.access.kfd.get().unwrap().usable, Some(true));
    assert_eq!(facts.access.kfd.get().unwrap().group, "render");
    let links = facts.links.get().unwrap();
    assert!(links.iter().any(|link| link.kind == LinkKind::Thunderbolt));
    assert_eq!(facts.folders[0].file_system.get().unwrap(), "btrfs");
}

#[test]
fn every_other_machine_differs_where_its_story_says_so() {
    let fresh = facts("strix-halo-ubuntu-fresh-62g");
    let gpu = fresh.primary_gpu().unwrap();
    assert_eq!(gpu.memory.gtt_total_bytes.copied(), Some(16_469_033 * 4096));
    assert_eq!(fresh.boot.loader.copied(), Some(BootLoader::UpdateGrub));
    assert_eq!(fresh.access.kfd.get().unwrap().usable, Some(false));
    assert!(fresh.vulkan.devices.get().unwrap()[0].software);
    assert_eq!(fresh.iommu.mode.copied(), Some(IommuMode::Translated));
    assert_eq!(fresh.memory.speed_mt_s.copied(), Some(8000), "by the GPU");
    let why = fresh.memory.installed_bytes.why().unwrap();
    assert_eq!(why.0, Because::Permission);

    let bad = facts("strix-halo-bad-firmware");
    assert_eq!(bad.firmware.mes.copied(), Some(0x83));
    assert_eq!(bad.kfd.gpu().unwrap().cwsr_size, None);
    assert_eq!(
        bad.identity.memory_bandwidth.copied(),
        Some(240_000_000_000)
    );
    assert_eq!(bad.vulkan.amdvlk.copied(), Some(true));
    assert_eq!(bad.rocm.version.get().unwrap(), "6.4.4");
    assert_eq!(bad.rocm.hip.get().unwrap(), "6.4.43484");
    let version = bad.environment.value("HSA_OVERRIDE_GFX_VERSION").unwrap();
    assert_eq!(version.value, "11.0.0");
    let running = bad.environment.running.get().unwrap();
    assert!(running.iter().all(|setting| !setting.name.contains("KEY")));
    assert_eq!(bad.access.open_rules.get().unwrap().len(), 1);
    let rivals = bad.processes.rivals.get().unwrap();
    let told: Vec<_> = rivals
        .iter()
        .map(|rival| (&*rival.name, rival.role))
        .collect();
    assert_eq!(
        told,
        [
            ("Xorg", Role::Display),
            ("ollama", Role::Models),
            ("llama-server", Role::Models),
            ("obs", Role::Video)
        ]
    );
    assert_eq!(rivals[2].flags, ["-ngl 40", "--rpc"]);
    assert_eq!(rivals[3].encodes_video, Some(true));

    let arch = facts("strix-halo-arch-64g-systemd-boot");
    assert_eq!(arch.boot.loader.copied(), Some(BootLoader::LoaderEntries));
    assert_eq!(arch.identity.gpu_name.get().unwrap(), "Radeon 8050S");
    assert_eq!(arch.kfd.gpu().unwrap().compute_units, 32);
    assert_eq!(arch.memory.zram_bytes.copied(), Some(4 << 30));
    assert_eq!(
        arch.firmware.package.get().unwrap(),
        "linux-firmware-amdgpu"
    );

    let image = facts("strix-halo-rpm-ostree");
    assert_eq!(image.boot.loader.copied(), Some(BootLoader::RpmOstree));
    assert_eq!(image.distribution.ostree.copied(), Some(true));
    assert_eq!(image.iommu.npu_mode.copied(), Some(IommuMode::Off));
    assert_eq!(image.npu.present.copied(), Some(true));
    assert_eq!(image.npu.device.get(), None);

    let toolbox = facts("strix-halo-toolbox");
    assert_eq!(
        toolbox.container.inside.copied(),
        Some(ContainerKind::Toolbox)
    );
    let why = toolbox.boot.loader.why().unwrap();
    assert_eq!(why.0, Because::NotApplicable);
    assert_eq!(toolbox.access.kfd.why().unwrap().0, Because::Absent);
    assert_eq!(
        toolbox.container.image.get().unwrap(),
        "docker.io/kyuz0/amd-strix-halo-toolboxes:rocm-7.2"
    );

    let laptop = facts("strix-halo-nixos-laptop");
    assert_eq!(laptop.boot.loader.copied(), Some(BootLoader::NixOs));
    assert_eq!(laptop.power.discharging.copied(), Some(true));
    assert_eq!(laptop.power.mains.copied(), Some(true));
    let gpu = laptop.primary_gpu().unwrap();
    assert_eq!(gpu.built_in_screen.copied(), Some(true));

    let dkms = facts("strix-halo-ubuntu-dkms");
    assert_eq!(dkms.modules.amdgpu_version.get().unwrap(), "6.14.14");
    let amdttm = dkms.modules.amdttm.get().unwrap();
    assert_eq!(amdttm["pages_limit"], "27648000");
    assert_eq!(dkms.modules.options.get().unwrap()[0].value, "16777216");
}

#[test]
fn machines_that_are_no_strix_halo_are_told_too() {
    let arm = facts("dgx-spark-arm");
    assert_eq!(
        arm.cpu.model.get().unwrap(),
        "10 x Cortex-X925, 10 x Cortex-A725"
    );
    assert_eq!(arm.cpu.cores.copied(), Some(20));
    assert_eq!(arm.cpu.family.get(), None);
    assert_eq!(arm.identity.strix_halo.copied(), Some(false));
    assert_eq!(arm.identity.unified_memory.copied(), Some(true));
    assert_eq!(arm.primary_gpu().unwrap().driver.get().unwrap(), "nvidia");

    let server = facts("server-x86-no-gpu");
    assert_eq!(server.identity.strix_halo.copied(), Some(false));
    assert!(server.gpus.is_empty());
    assert_eq!(server.cpu.virtual_machine.copied(), Some(true));
    assert_eq!(server.iommu.mode.copied(), Some(IommuMode::Off));
    assert_eq!(server.memory.swaps.get().unwrap().len(), 0);
    let tree = server.tree();
    assert!(matches!(
        tree.lookup("gpu.memory.gtt_total_bytes"),
        Fact::Unknown {
            because: Because::Absent,
            ..
        }
    ));
}

#[test]
fn facts_are_looked_up_by_name_through_their_wrappers() {
    let tree = facts("strix-halo-fedora-healthy-128g").tree();
    assert_eq!(text(&tree, "kernel.version.text"), "7.1.3");
    assert_eq!(text(&tree, "modules.ttm.pages_limit"), "29360128");
    assert_eq!(text(&tree, "kfd_gpu.target"), "gfx1151");
    assert_eq!(text(&tree, "gpu.vbios"), "113-STRXLGEN-001");
    assert_eq!(text(&tree, "gpus.0.card"), "card1");
    let Fact::Value { value, source } = tree.lookup("memory.vm.swappiness") else {
        panic!("it is known");
    };
    assert_eq!(
        (value.as_u64(), source),
        (Some(10), Some("/proc/sys/vm/swappiness"))
    );
    assert!(matches!(
        tree.lookup("modules.amdttm.pages_limit"),
        Fact::Unknown {
            because: Because::Absent,
            ..
        }
    ));
    for missing in ["modules.ttm.gttsize", "nonsense", "gpus.7", "cpu.model.x"] {
        assert_eq!(tree.lookup(missing), Fact::Missing, "{missing}");
    }
}

#[test]
fn facts_survive_json() {
    for name in fixture::names() {
        let facts = facts(&name);
        let json = serde_json::to_string(&facts).unwrap();
        let read: Facts = serde_json::from_str(&json).unwrap();
        assert!(read == facts, "{name}");
    }
}

/// A tree on disk is read through the kernel, a bundle by our own code: both must find the same.
#[test]
fn a_tree_and_its_bundle_tell_the_same() {
    for name in fixture::names() {
        let folder = tempfile::tempdir().unwrap();
        fixture::unpack(&name, folder.path()).unwrap();
        let tree = Root::open(folder.path()).unwrap();
        let from_tree = Facts::collect(&tree, &Request::default()).tree();
        let from_bundle = facts(&name).tree();
        let pair = (from_tree.json(), from_bundle.json());
        let groups = pair.0.as_object().unwrap();
        for (group, value) in groups {
            assert_eq!(value, &pair.1[group], "{name}: {group}");
        }
    }
}

#[test]
fn a_hostile_machine_is_told_quickly_and_nothing_of_it_is_believed() {
    let folder = tempfile::tempdir().unwrap();
    fixture::unpack("hostile", folder.path()).unwrap();
    for root in [fixture::root("hostile"), Root::open(folder.path()).unwrap()] {
        let started = Instant::now();
        let facts = Facts::collect(&root, &Request::default());
        // A few milliseconds on an idle machine; minutes, were a pipe waited for or a circle walked.
        assert!(started.elapsed() < Duration::from_secs(60));
        let because = |why: Option<(Because, &str)>| why.map(|(because, _)| because);
        let gpu = &facts.gpus[0];
        assert_eq!(facts.gpus.len(), 1, "links in circles are no GPU");
        assert_eq!(because(facts.cpu.model.why()), Some(Because::TooLarge));
        assert_eq!(
            because(facts.memory.total_bytes.why()),
            Some(Because::NotText)
        );
        assert_eq!(
            because(gpu.memory.gtt_total_bytes.why()),
            Some(Because::Malformed)
        );
        assert_eq!(because(gpu.busy_percent.why()), Some(Because::TooLarge));
        assert_eq!(because(gpu.vbios.why()), Some(Because::NotAFile));
        assert_eq!(because(facts.board.board.why()), Some(Because::Loop));
        assert_eq!(because(facts.board.product.why()), Some(Because::NotAFile));
        assert_eq!(because(facts.access.user.why()), Some(Because::Permission));
        assert_eq!(because(facts.access.kfd.why()), Some(Because::Malformed));
        assert_eq!(facts.kernel.version.get(), None);
        assert_eq!(facts.board.bios_date.get(), None);
        assert_eq!(facts.rocm.version.get(), None);
    }
}

#[test]
fn links_do_not_lead_out_of_a_tree() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "7\n").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let vm = folder.path().join("proc/sys/vm");
    std::fs::create_dir_all(&vm).unwrap();
    let absolute = outside.path().join("secret");
    std::os::unix::fs::symlink(&absolute, vm.join("swappiness")).unwrap();
    let mut relative = std::path::PathBuf::from("../../../../../../../../..");
    relative.push(absolute.strip_prefix("/").unwrap());
    std::os::unix::fs::symlink(&relative, vm.join("dirty_ratio")).unwrap();
    let root = Root::open(folder.path()).unwrap();
    for name in ["swappiness", "dirty_ratio"] {
        let error = root.text(&format!("/proc/sys/vm/{name}")).unwrap_err();
        assert_eq!(error.because, Because::Absent, "{error}");
    }
    assert!(root.text("/../../../../../../../etc/hostname").is_err());
}

#[test]
fn this_machine_is_told_in_bounded_time() {
    let root = Root::live().unwrap();
    let started = Instant::now();
    let facts = Facts::collect(&root, &Request::default());
    let took = started.elapsed();
    // No question is waited for longer than a second or two. The rest is left to a machine that has other things to do.
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert!(
        facts
            .memory
            .total_bytes
            .copied()
            .is_some_and(|bytes| bytes > 1 << 28)
    );
    assert!(
        facts
            .cpu
            .threads
            .copied()
            .is_some_and(|threads| threads >= 1)
    );
    assert!(facts.folders[0].free_bytes.get().is_some());
    let sources = facts.tree().json().to_string();
    assert!(!sources.contains("nobody looked"), "{sources}");
}

/// What a file may hold: anything, or something near to what it held.
fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        "[0-9a-zA-Z \\n\\t:=\\[\\]\"'\\\\*.,$#@/_-]{0,200}".prop_map(String::into_bytes),
        Just(u64::MAX.to_string().into_bytes()),
        Just(b"-1\n".to_vec()),
    ]
}

/// The bundle with some files replaced, some cut, some joined.
fn damaged(name: &str, places: &[(prop::sample::Index, Vec<u8>, u8)]) -> Bundle {
    let mut bundle = fixture::bundle(name);
    let paths: Vec<String> = bundle.files.keys().cloned().collect();
    for (index, bytes, how) in places {
        let path = index.get(&paths);
        let entry = bundle.files.get_mut(path).expect("it is one of them");
        let before = match entry {
            Entry::Text(text) => text.clone().into_bytes(),
            Entry::Special(_) => Vec::new(),
        };
        let cut = usize::from(*how).min(before.len());
        *entry = match how % 3 {
            0 => Entry::from(&bytes[..]),
            1 => Entry::from(&before[..cut]),
            _ => Entry::from(&[&before[..cut], &bytes[..], &before[cut..]].concat()[..]),
        };
    }
    bundle
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_content_of_any_file_breaks_the_readers(
        places in prop::collection::vec((any::<prop::sample::Index>(), content(), any::<u8>()), 1..40),
        name in prop::sample::select(fixture::names()),
    ) {
        let root = Root::bundle(damaged(&name, &places));
        let facts = Facts::collect(&root, &Request::default());
        let json = serde_json::to_string(&facts).unwrap();
        prop_assert!(serde_json::from_str::<Facts>(&json).unwrap() == facts);
    }
}
