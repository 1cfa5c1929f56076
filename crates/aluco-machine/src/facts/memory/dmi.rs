//! Memory devices in the DMI table: structures of type 17, as SMBIOS 3.7 lays them out. The table is readable by root only.

use super::MemoryDevice;

/// A board has a few dozen sockets at most.
const DEVICES_MAX: usize = 256;

/// The devices that are not empty sockets. A table that breaks off gives those before the break.
pub(super) fn devices(table: &[u8]) -> Vec<MemoryDevice> {
    let mut devices = Vec::new();
    let mut rest = table;
    while let Some((structure, after)) = structure(rest) {
        if structure.kind == 17
            && devices.len() < DEVICES_MAX
            && let Some(device) = structure.memory_device()
        {
            devices.push(device);
        }
        if structure.kind == 127 {
            break;
        }
        rest = after;
    }
    devices
}

struct Structure<'a> {
    kind: u8,
    formatted: &'a [u8],
    strings: &'a [u8],
}

/// A structure is its formatted part, then strings that each end in a zero byte, then one more zero byte.
fn structure(table: &[u8]) -> Option<(Structure<'_>, &[u8])> {
    let (&kind, &length) = (table.first()?, table.get(1)?);
    if length < 4 {
        return None;
    }
    let (formatted, rest) = table.split_at_checked(usize::from(length))?;
    let end = rest.windows(2).position(|pair| pair == [0, 0])?;
    let structure = Structure {
        kind,
        formatted,
        strings: &rest[..end],
    };
    Some((structure, &rest[end + 2..]))
}

impl Structure<'_> {
    fn byte(&self, offset: usize) -> Option<u8> {
        self.formatted.get(offset).copied()
    }

    fn word(&self, offset: usize) -> Option<u16> {
        let bytes = self.formatted.get(offset..offset + 2)?;
        Some(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    fn double_word(&self, offset: usize) -> Option<u32> {
        let bytes = self.formatted.get(offset..offset + 4)?;
        Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// The text with the number that stands at this offset; texts count from 1.
    fn text(&self, offset: usize) -> String {
        let number = usize::from(self.byte(offset).unwrap_or(0));
        let texts = self.strings.split(|byte| *byte == 0);
        let text = match number.checked_sub(1) {
            Some(index) => texts.into_iter().nth(index).unwrap_or_default(),
            None => &[],
        };
        let text = String::from_utf8_lossy(text);
        text.trim()
            .chars()
            .filter(|letter| !letter.is_control())
            .collect()
    }

    fn memory_device(&self) -> Option<MemoryDevice> {
        let bytes = match self.word(0x0C)? {
            0 | 0xFFFF => return None,
            0x7FFF => u64::from(self.double_word(0x1C)? & 0x7FFF_FFFF) << 20,
            size if size & 0x8000 != 0 => u64::from(size & 0x7FFF) << 10,
            size => u64::from(size) << 20,
        };
        let told = |offset| self.word(offset).filter(|word| !matches!(word, 0 | 0xFFFF));
        let kind = match self.byte(0x12) {
            Some(0x18) => Some("DDR3"),
            Some(0x1A) => Some("DDR4"),
            Some(0x1E) => Some("LPDDR4"),
            Some(0x22) => Some("DDR5"),
            Some(0x23) => Some("LPDDR5"),
            _ => None,
        };
        Some(MemoryDevice {
            bytes,
            width_bits: told(0x0A).map(u32::from),
            speed_mt_s: told(0x15).map(u32::from),
            configured_mt_s: told(0x20).map(u32::from),
            kind: kind.map(str::to_owned),
            locator: self.text(0x10),
            maker: self.text(0x17),
            part: self.text(0x1A),
        })
    }
}

/// A table with these devices and nothing else: no serial numbers, no asset tags, no other structures.
pub(super) fn table(devices: &[MemoryDevice]) -> Vec<u8> {
    let mut table = Vec::new();
    for (index, device) in devices.iter().enumerate() {
        let mut formatted = [0; 0x28];
        let mut put = |offset: usize, bytes: &[u8]| {
            formatted[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        let word = |number: Option<u32>| (number.unwrap_or(0) as u16).to_le_bytes();
        put(0, &[17, 0x28]);
        put(2, &(index as u16).to_le_bytes());
        put(0x0A, &word(device.width_bits));
        put(0x0C, &0x7FFF_u16.to_le_bytes());
        put(0x10, &[1]);
        let kinds = [
            ("DDR3", 0x18),
            ("DDR4", 0x1A),
            ("LPDDR4", 0x1E),
            ("DDR5", 0x22),
            ("LPDDR5", 0x23),
        ];
        let kind = kinds
            .iter()
            .find(|(name, _)| Some(*name) == device.kind.as_deref());
        put(0x12, &[kind.map_or(2, |(_, number)| *number)]);
        put(0x15, &word(device.speed_mt_s));
        put(0x17, &[2]);
        put(0x1A, &[3]);
        put(0x1C, &((device.bytes >> 20) as u32).to_le_bytes());
        put(0x20, &word(device.configured_mt_s));
        table.extend(formatted);
        for text in [&device.locator, &device.maker, &device.part] {
            // An empty text would end the list.
            let text = if text.is_empty() { " " } else { text };
            table.extend(text.bytes());
            table.push(0);
        }
        table.push(0);
    }
    table.extend([127, 4, 0xFF, 0xFE, 0, 0]);
    table
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A structure of type 17 with 16 GiB, and one for an empty socket.
    fn table() -> Vec<u8> {
        let mut device = vec![0; 0x28];
        device[..4].copy_from_slice(&[17, 0x28, 1, 0]);
        device[0x0A] = 32;
        device[0x0C..0x0E].copy_from_slice(&(16_u16 << 10).to_le_bytes());
        device[0x10] = 1;
        device[0x12] = 0x23;
        device[0x15..0x17].copy_from_slice(&8533_u16.to_le_bytes());
        device[0x17] = 2;
        device[0x20..0x22].copy_from_slice(&8000_u16.to_le_bytes());
        let mut empty = device.clone();
        empty[0x0C..0x0E].copy_from_slice(&[0, 0]);
        device.extend(b"DIMM 0\0SK Hynix\0\0");
        empty.extend(b"DIMM 1\0\0");
        [device, empty].concat()
    }

    #[test]
    fn sockets_with_memory_are_told_and_empty_ones_are_not() {
        let devices = devices(&table());
        let [device] = &devices[..] else {
            panic!("{devices:?}");
        };
        assert_eq!(device.bytes, 16 << 30);
        assert_eq!(device.configured_mt_s, Some(8000));
        assert_eq!(device.kind.as_deref(), Some("LPDDR5"));
        assert_eq!(
            (&*device.locator, &*device.maker, &*device.part),
            ("DIMM 0", "SK Hynix", "")
        );
    }

    #[test]
    fn a_table_that_is_written_again_holds_the_devices_and_no_more() {
        let before = devices(&table());
        assert_eq!(devices(&super::table(&before)), before);
    }

    proptest! {
        #[test]
        fn no_table_breaks_the_reader(table in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(devices(&table).len() <= DEVICES_MAX);
        }

        #[test]
        fn a_table_cut_anywhere_gives_what_came_before(end in 0..90_usize) {
            let table = table();
            prop_assert!(devices(&table[..end.min(table.len())]).len() <= 1);
        }
    }
}
