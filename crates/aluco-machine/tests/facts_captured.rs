//! What a capture holds, and above all what it does not.

use std::collections::BTreeMap;

use aluco_machine::{
    capture::capture,
    facts::{Facts, Known, LinkKind, Request},
    fixture,
    root::{Bundle, Entry, Root, Special},
};

fn request() -> Request {
    Request {
        folders: vec!["/home/wilhelmina/.local/share/aluco/models".to_owned()],
    }
}

/// Things that tell whose machine it is, put wherever somebody could have put them.
const SECRETS: &[&str] = &[
    "wilhelmina",
    "snowyowl",
    "52:54:00:12:34:56",
    "525400123456",
    "S64DNX0T123456",
    "4c4c4544-0042-3510-8053-b7c04f4e3233",
    "0b5f7ac1d2e34f5697886a5b4c3d2e1f",
    "203.0.113.77",
    "2a02:8071:b81:4711::17",
    "sk-verysecret",
    "acme-corp",
    "8472915364738291",
];

/// The letters of a text as hexadecimal digits, as a bundle keeps bytes.
fn digits(text: &str) -> String {
    match Entry::from(text.as_bytes()) {
        Entry::Special(Special { hex: Some(hex), .. }) => hex,
        other => panic!("{other:?}"),
    }
}

fn planted() -> Bundle {
    let mut bundle = fixture::bundle("strix-halo-bad-firmware");
    let mut put = |path: &str, text: &str| {
        bundle
            .files
            .insert(path.to_owned(), Entry::Text(text.to_owned()));
    };
    put("/proc/sys/kernel/hostname", "snowyowl\n");
    put("/etc/machine-id", "0b5f7ac1d2e34f5697886a5b4c3d2e1f\n");
    put(
        "/etc/passwd",
        "root:x:0:0::/root:/bin/sh\nwilhelmina:x:1000:1000:W:/home/wilhelmina:/bin/sh\n",
    );
    put(
        "/etc/group",
        "root:x:0:\nvideo:x:39:wilhelmina\nrender:x:105:wilhelmina\nwilhelmina:x:1000:\nacme-corp:x:1001:wilhelmina\n",
    );
    put("/sys/class/dmi/id/product_serial", "S64DNX0T123456\n");
    put(
        "/sys/class/dmi/id/product_uuid",
        "4c4c4544-0042-3510-8053-b7c04f4e3233\n",
    );
    put("/sys/class/dmi/id/board_serial", "S64DNX0T123456\n");
    put("/sys/block/nvme0n1/device/serial", "S64DNX0T123456\n");
    put("/sys/class/net/enp191s0/address", "52:54:00:12:34:56\n");
    put(
        "/sys/class/net/enx525400123456/address",
        "52:54:00:12:34:56\n",
    );
    put(
        "/sys/class/net/enx525400123456/device/uevent",
        "DRIVER=r8152\n",
    );
    put("/sys/class/net/wg-acme-corp/type", "65534\n");
    put(
        "/proc/cmdline",
        "BOOT_IMAGE=/0b5f7ac1d2e34f5697886a5b4c3d2e1f/linux root=UUID=4c4c4544-0042-3510-8053-b7c04f4e3233 ro ip=203.0.113.77::::snowyowl amdgpu.gttsize=1 nfsroot=snowyowl:/export -- --token=sk-verysecret\n",
    );
    put(
        "/boot/loader/entries/0b5f7ac1d2e34f5697886a5b4c3d2e1f-6.14.9-300.fc42.x86_64.conf",
        "title Acme acme-corp\nmachine-id 0b5f7ac1d2e34f5697886a5b4c3d2e1f\noptions root=UUID=4c4c4544-0042-3510-8053-b7c04f4e3233 quiet amdgpu.gttsize=1\n",
    );
    put(
        "/etc/environment",
        "OLLAMA_HOST=203.0.113.77:11434\nHSA_OVERRIDE_GFX_VERSION=11.0.0\nLLAMA_CACHE=/home/wilhelmina/models\nOLLAMA_ORIGINS=http://chat.acme-corp.example/,http://[2a02:8071:b81:4711::17]/\nOPENAI_API_KEY=sk-verysecret\nMAIL=wilhelmina@acme-corp.example\n",
    );
    put(
        "/etc/profile.d/acme-corp.sh",
        "export HTTP_PROXY=http://proxy.acme-corp:3128\n",
    );
    put(
        "/etc/security/limits.d/90.conf",
        "wilhelmina soft memlock unlimited\n@acme-corp - nofile 9999\n",
    );
    put(
        "/etc/udev/rules.d/60-own.rules",
        "SUBSYSTEM==\"drm\", ATTRS{serial}==\"S64DNX0T123456\", MODE=\"0666\"\n",
    );
    put(
        "/etc/modprobe.d/acme-corp.conf",
        "# by wilhelmina\noptions snd model=acme-corp\n",
    );
    put(
        "/proc/self/environ",
        "USER=wilhelmina\0HOME=/home/wilhelmina\0HF_TOKEN=sk-verysecret\0LD_LIBRARY_PATH=/home/wilhelmina/rocm/lib\0",
    );
    put(
        "/proc/self/status",
        "Name:\twilhelmina\nUid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nGroups:\t39 105 1001\n",
    );
    put(
        "/proc/self/mountinfo",
        "1 1 0:1 / / rw - ext4 /dev/mapper/luks-4c4c4544-0042-3510-8053-b7c04f4e3233 rw\n2 1 0:2 / /media/wilhelmina/acme-corp rw - vfat /dev/sda1 rw\n3 1 0:3 / /home rw - nfs4 snowyowl:/home rw,addr=203.0.113.77\n",
    );
    put(
        "/proc/3001/cmdline",
        "/home/wilhelmina/bin/ollama\0serve\0--api-key\0sk-verysecret\0",
    );
    put(
        "/proc/3002/cmdline",
        "llama-server\0-m\0/home/wilhelmina/acme-corp.gguf\0-ngl\x0040\0--rpc\x00203.0.113.77:50052\0-p\0I am wilhelmina\0",
    );
    put(
        "/proc/3001/environ",
        "HOME=/home/wilhelmina\0HSA_OVERRIDE_GFX_VERSION=11.0.0\0OLLAMA_API_KEY=sk-verysecret\0",
    );
    put("/proc/4000/comm", "acme-corp-agent\n");
    put(
        "/proc/4000/cmdline",
        "acme-corp-agent\0--token\0sk-verysecret\0",
    );
    put("/proc/4000/fdinfo/3", "drm-driver:\tacme-corp\n");
    put(
        "/run/.containerenv",
        "name=\"acme-corp\"\nimage=\"registry.acme-corp.example/x:1\"\nid=\"0b5f7ac1d2e34f5697886a5b4c3d2e1f\"\n",
    );
    put("/opt/acme-corp/.info/version", "1\n");
    put(
        "/etc/vulkan/icd.d/own.json",
        "{\"ICD\":{\"library_path\":\"/home/wilhelmina/lib/libvulkan_radeon.so\"},\"comment\":\"acme-corp\"}",
    );
    let kfd = "/sys/class/kfd/kfd/topology/nodes/1/properties";
    if let Some(Entry::Text(text)) = bundle.files.get_mut(kfd) {
        *text = text.replace("unique_id 0", "unique_id 8472915364738291");
    }
    let vulkan = "/commands/vulkaninfo";
    if let Some(Entry::Text(text)) = bundle.files.get_mut(vulkan) {
        text.push_str("\tdeviceUUID = 4c4c4544-0042-3510-8053-b7c04f4e3233\n");
    }
    // The serial number of a memory device, where SMBIOS keeps it.
    let table = "/sys/firmware/dmi/tables/DMI";
    if let Some(Entry::Special(Special { hex: Some(hex), .. })) = bundle.files.get_mut(table) {
        let part = digits("H58G66BK8BX068");
        let serial = digits("S64DNX0T123456");
        *hex = hex.replace(&format!("{part}00"), &format!("{part}00{serial}00"));
        assert!(hex.contains(&serial));
    }
    bundle
}

#[test]
fn nothing_that_tells_an_owner_comes_out() {
    let written = capture(&Root::bundle(planted()), &request(), "0");
    let text = serde_json::to_string(&written).unwrap();
    let lower = text.to_lowercase();
    for secret in SECRETS {
        let hex = digits(secret);
        for form in [&secret.to_lowercase(), &hex] {
            if let Some(place) = lower.find(form.as_str()) {
                let begin = place.saturating_sub(80);
                panic!("{secret}: …{}…", &text[begin..(place + 40).min(text.len())]);
            }
        }
    }
    for kept in [
        "11.0.0",
        "amdgpu.gttsize=1",
        "llama-server",
        "0x1586",
        "enx000000000000",
    ] {
        assert!(text.contains(kept), "{kept}");
    }
}

#[test]
fn what_is_captured_again_stays_the_same() {
    let once = capture(&Root::bundle(planted()), &request(), "0");
    let again = capture(&Root::bundle(once.clone()), &Request::default(), "0");
    let differing: BTreeMap<_, _> = once
        .files
        .iter()
        .filter(|(path, entry)| again.files.get(*path) != Some(*entry))
        .filter(|(path, _)| *path != "/commands/space")
        .collect();
    assert!(differing.is_empty(), "{differing:#?}");
}

/// The id of the machines of fixtures.
const MACHINE_ID: &str = "00000000000000000000000000000001";

/// The replay may differ in what was hidden: the names of people's own things.
fn without_hidden(mut facts: Facts) -> Facts {
    facts.kernel.arguments = Known::default();
    facts.processes.hidden = Known::default();
    facts.access.groups = Known::default();
    facts.links = facts.links.map(|links| {
        links
            .into_iter()
            .filter(|link| link.kind != LinkKind::Virtual)
            .collect()
    });
    facts
}

#[test]
fn a_replay_tells_the_same_facts() {
    for name in fixture::names().iter().filter(|name| *name != "hostile") {
        let root = fixture::root(name);
        let told = Facts::collect(&root, &Request::default());
        let written = capture(&root, &Request::default(), "0");
        let text = serde_json::to_vec(&written).unwrap();
        let read = Bundle::parse(&text, "/x".as_ref()).unwrap();
        let replayed = Facts::collect(&Root::bundle(read), &Request::default());
        let (told, replayed) = (without_hidden(told).tree(), without_hidden(replayed).tree());
        for (group, value) in told.json().as_object().unwrap() {
            // The name of a loader entry begins with the machine's id.
            let value = value.to_string().replace(MACHINE_ID, &"0".repeat(32));
            assert_eq!(value, replayed.json()[group].to_string(), "{name}: {group}");
        }
    }
}

#[test]
fn a_hostile_machine_can_be_captured() {
    let written = capture(&fixture::root("hostile"), &Request::default(), "0");
    let text = serde_json::to_string(&written).unwrap();
    assert!(text.len() < 1 << 20, "{}", text.len());
    let replayed = Facts::collect(&Root::bundle(written), &Request::default());
    assert_eq!(replayed.memory.total_bytes.get(), None);
}

#[test]
fn this_machine_can_be_captured_and_replayed() {
    let written = capture(&Root::live().unwrap(), &Request::default(), "0");
    let text = serde_json::to_string(&written).unwrap();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let host = host.trim();
    // A name like "server" or "kernel" stands in many places that tell nothing of the host.
    let tells = host.len() >= 8 && host.bytes().any(|byte| byte.is_ascii_digit());
    assert!(!tells || !text.contains(host), "{host}");
    let replayed = Facts::collect(&Root::bundle(written), &Request::default());
    assert!(replayed.memory.total_bytes.get().is_some());
}
