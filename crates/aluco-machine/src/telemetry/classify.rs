//! Which message means what. The texts are those of amdgpu, amdkfd, amdxdna, the memory management and ROCm's runtime; older and
//! newer kernels differ in prefixes, which do not matter here.

use super::event::KernelEventKind as Kind;

/// Messages that a fixed text tells, the more telling ones first.
const FIXED: [(&str, Kind); 24] = [
    ("MES failed to respond to msg=", Kind::MesFailure),
    ("MES might be in unrecoverable state", Kind::MesFailure),
    ("failed to remove hardware queue from MES", Kind::QueueLost),
    ("Failed to evict queue", Kind::QueueLost),
    ("remove_all_kfd_queues_mes", Kind::QueueLost),
    ("GPU reset begin!", Kind::GpuReset),
    ("Dumping IP State", Kind::CoreDump),
    ("device coredump file has been created", Kind::CoreDump),
    ("SMU: No response msg_reg:", Kind::SmuFailure),
    ("Failed to disable gfxoff!", Kind::SmuFailure),
    ("Failed to retrieve enabled ppfeatures!", Kind::SmuFailure),
    ("GTT size has been set as", Kind::SettingIgnored),
    ("ttm_resource_manager_next", Kind::AllocationFailure),
    ("ttm_pool_alloc_page", Kind::AllocationFailure),
    ("page allocation failure", Kind::AllocationFailure),
    (
        "Not enough memory for command submission",
        Kind::AllocationFailure,
    ),
    ("IO_PAGE_FAULT", Kind::NpuFault),
    ("CREATE_HWCTX IOCTL failed", Kind::NpuFault),
    ("SVA bind device failed", Kind::NpuFault),
    ("HW Exception by GPU node", Kind::RocmException),
    ("Memory access fault by GPU node", Kind::RocmException),
    ("HSA_STATUS_ERROR_EXCEPTION", Kind::RocmException),
    ("HSA_STATUS_ERROR_OUT_OF_RESOURCES", Kind::RocmException),
    ("Memory critical error by agent node", Kind::RocmException),
];

/// What a message means; `None` for all that do not matter here, which are nearly all.
pub fn classify(text: &str) -> Option<Kind> {
    if let Some(ring) = ring_timeout(text) {
        return Some(Kind::RingTimeout {
            ring: ring.to_owned(),
        });
    }
    if text.contains("hub] page fault (")
        || text.contains("hub] no-retry page fault (")
        || text.contains("hub0] page fault (")
        || text.contains("hub0] no-retry page fault (")
    {
        return Some(Kind::PageFault {
            status: None,
            client: None,
        });
    }
    if let Some((_, rest)) = text.split_once("GPU reset(") {
        return Some(if rest.contains("succeeded") {
            Kind::GpuRecovered
        } else {
            Kind::GpuReset
        });
    }
    if text.contains("Freeing queue vital buffer 0x") && text.contains("queue evicted") {
        return Some(Kind::QueueLost);
    }
    if text.contains("Check your /sys/class/drm/card") && text.contains("/device/devcoredump") {
        return Some(Kind::CoreDump);
    }
    if is_ignored_setting(text) {
        return Some(Kind::SettingIgnored);
    }
    if let Some(control_group) = out_of_memory(text) {
        return Some(Kind::OutOfMemory { control_group });
    }
    FIXED
        .iter()
        .find(|(needle, _)| text.contains(needle))
        .map(|(_, kind)| kind.clone())
}

/// `ring gfx_0.0.0 timeout, signaled seq=12, emitted seq=14`
fn ring_timeout(text: &str) -> Option<&str> {
    let (before, after) = text.split_once(" timeout, ")?;
    let ring = before.rsplit(' ').next()?;
    let is_ring = ["gfx", "comp", "sdma", "vcn", "vpe", "mes", "jpeg"]
        .iter()
        .any(|name| ring.starts_with(name));
    let preceded = before
        .strip_suffix(ring)
        .is_some_and(|head| head.ends_with("ring "));
    let ends = after.contains("signaled seq=") || after.contains("soft recovered");
    (is_ring && preceded && ends).then_some(ring)
}

fn is_ignored_setting(text: &str) -> bool {
    let of_ours = ["amdgpu", "ttm", "amdxdna", "amdttm"]
        .iter()
        .any(|module| text.contains(module));
    let unknown = text.contains("unknown parameter '") && text.ends_with("ignored");
    let deprecated = text.contains("Configuring gttsize") && text.contains("deprecated");
    deprecated || unknown && of_ours
}

/// Whether the out-of-memory killer killed a process; and if so, whether for a control group.
fn out_of_memory(text: &str) -> Option<bool> {
    if text.contains("Memory cgroup out of memory: Killed process ") {
        return Some(true);
    }
    text.contains("Out of memory: Killed process ")
        .then_some(false)
}

/// Number and name of the process that a message names: `Process llama-cli pid 10890`, `Killed process 4242 (llama-server)`.
pub(super) fn process(text: &str) -> Option<(u32, String)> {
    if let Some((_, rest)) = text.split_once("Killed process ") {
        let (number, rest) = rest.split_once(" (")?;
        let end = rest.find(") total-vm").or_else(|| rest.rfind(')'))?;
        return Some((number.trim().parse().ok()?, rest[..end].to_owned()));
    }
    // `Process X pid 1 thread Y pid 2`; also `for process X pid 1` within a longer line.
    let at = text.find("rocess ")?;
    let rest = &text[at + "rocess ".len()..];
    let (name, rest) = rest.split_once(" pid ")?;
    let digits = rest
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(rest.len());
    let number = rest[..digits].parse().ok()?;
    // 0 and no name: the driver did not know.
    (number > 0).then(|| {
        (
            number,
            name.trim_start_matches("information: process ").to_owned(),
        )
    })
}

/// The value of `GCVM_L2_PROTECTION_FAULT_STATUS:0x00800932`.
pub(super) fn fault_status(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("L2_PROTECTION_FAULT_STATUS:0x")?;
    let digits = rest
        .find(|letter: char| !letter.is_ascii_hexdigit())
        .unwrap_or(rest.len());
    u32::from_str_radix(&rest[..digits], 16).ok()
}

/// The part of the GPU: `Faulty UTCL2 client ID: CPF (0x4)`.
pub(super) fn fault_client(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("Faulty UTCL2 client ID: ")?;
    rest.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind(text: &str) -> Kind {
        classify(text).unwrap_or_else(|| panic!("nothing in {text:?}"))
    }

    #[test]
    fn messages_of_real_machines_are_told() {
        let ring = kind(
            "amdgpu 0000:c6:00.0: amdgpu: ring gfx_0.0.0 timeout, signaled seq=1512, emitted seq=1514",
        );
        assert_eq!(
            ring,
            Kind::RingTimeout {
                ring: "gfx_0.0.0".to_owned()
            }
        );
        for (text, rule) in [
            (
                "[drm:amdgpu_job_timedout [amdgpu]] *ERROR* ring comp_1.0.0 timeout, signaled seq=1, emitted seq=2",
                "LOG-01",
            ),
            (
                "amdgpu 0000:c5:00.0: amdgpu: MES failed to respond to msg=REMOVE_QUEUE",
                "LOG-02",
            ),
            (
                "amdgpu 0000:c5:00.0: MES failed to respond to msg=MISC (WAIT_REG_MEM)",
                "LOG-02",
            ),
            (
                "amdgpu 0000:c5:00.0: amdgpu: MES might be in unrecoverable state, issue a GPU reset",
                "LOG-02",
            ),
            (
                "amdgpu 0000:c5:00.0: amdgpu: [gfxhub] page fault (src_id:0 ring:153 vmid:8 pasid:32770)",
                "LOG-03",
            ),
            (
                "amdgpu 0000:c5:00.0: amdgpu: GPU reset begin!. Source:  3",
                "LOG-04",
            ),
            (
                "amdgpu 0000:c5:00.0: amdgpu: GPU reset(2) succeeded!",
                "LOG-04",
            ),
            (
                "[drm] AMDGPU device coredump file has been created",
                "LOG-04",
            ),
            (
                "[drm] Check your /sys/class/drm/card1/device/devcoredump/data",
                "LOG-04",
            ),
            (
                "amdgpu 0000:c5:00.0: amdgpu: failed to remove hardware queue from MES, doorbell=0x1802",
                "LOG-05",
            ),
            (
                "amdgpu: Freeing queue vital buffer 0x7f2e70800000, queue evicted",
                "LOG-05",
            ),
            (
                "amdgpu 0000:c6:00.0: SMU: No response msg_reg: 12 resp_reg: 0",
                "LOG-06",
            ),
            ("amdgpu: unknown parameter 'gtt_size' ignored", "LOG-07"),
            (
                "[drm] Configuring gttsize via module parameter is deprecated, please use ttm.pages_limit",
                "LOG-07",
            ),
            (
                "[drm] GTT size has been set as 68719476736 but TTM size has been set as 12593328128, this is unusual",
                "LOG-07",
            ),
            (
                "llama-server: page allocation failure: order:0, mode:0x140dca",
                "LOG-08",
            ),
            (
                "amdxdna 0000:c6:00.1: [drm] *ERROR* amdxdna_drm_open: SVA bind device failed, ret -19",
                "LOG-09",
            ),
            (
                "AMD-Vi: Event logged [IO_PAGE_FAULT device=0000:c6:00.1 domain=0x0025 address=0x1000 flags=0x0000]",
                "LOG-09",
            ),
            (
                "Memory access fault by GPU node-1 (Agent handle: 0x5581) on address 0x7f00. Reason: Page not present",
                "LOG-10",
            ),
            (
                "HSA_STATUS_ERROR_EXCEPTION: An HSAIL operation resulted in a hardware exception. code: 0x1016",
                "LOG-10",
            ),
        ] {
            assert_eq!(kind(text).rule(), Some(rule), "{text}");
        }
    }

    #[test]
    fn the_out_of_memory_killer_names_its_victim() {
        let global = "Out of memory: Killed process 4242 (llama (x) srv) total-vm:1234kB, anon-rss:1kB, file-rss:0kB, UID:1000";
        assert_eq!(
            kind(global),
            Kind::OutOfMemory {
                control_group: false
            }
        );
        assert_eq!(process(global), Some((4242, "llama (x) srv".to_owned())));
        let group = "Memory cgroup out of memory: Killed process 7 (aluco-worker) total-vm:1kB";
        assert_eq!(
            kind(group),
            Kind::OutOfMemory {
                control_group: true
            }
        );
        assert_eq!(process(group), Some((7, "aluco-worker".to_owned())));
    }

    #[test]
    fn a_driver_names_the_process() {
        assert_eq!(
            process(
                "amdgpu 0000:c5:00.0: amdgpu:  Process llama-cli pid 10890 thread llama-cli pid 10890"
            ),
            Some((10890, "llama-cli".to_owned()))
        );
        assert_eq!(process("Process  pid 0 thread  pid 0"), None);
    }

    #[test]
    fn ordinary_messages_mean_nothing() {
        for text in [
            "amdgpu 0000:c6:00.0: amdgpu: 65536M of GTT memory ready.",
            "kfd kfd: amdgpu: added device 1002:1586",
            "[drm] Initialized amdxdna_accel_driver 0.6.0 for 0000:c6:00.1 on minor 0",
            "nvme nvme0: I/O tag 1 (1001) QID 2 timeout, completion polled",
            "usb: unknown parameter 'x' ignored",
            "systemd[1]: Killed process of unit",
            "",
        ] {
            assert_eq!(classify(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = (classify(&text), process(&text), fault_status(&text), fault_client(&text));
        }

        #[test]
        fn no_mixture_of_their_words_panics(
            words in proptest::collection::vec(
                "(ring |gfx_0| timeout, |Killed process |\\(|\\)|Process | pid |[0-9]{1,12}|STATUS:0x|GPU reset\\(|client ID: |é)",
                0..12,
            ),
        ) {
            let text = words.concat();
            let _ = (classify(&text), process(&text), fault_status(&text), fault_client(&text));
        }
    }
}
