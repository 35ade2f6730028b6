// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The device as a vfio-user client sees it.

use rsvm_vgpu::config::Config;
use rsvm_vgpu::mem::{Aperture, PhysAddr};
use rsvm_vgpu::transport::{serve, Msix};
use rsvm_vgpu::Device;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_NONE,
    VFIO_PCI_CONFIG_REGION_INDEX as CONFIG, VFIO_PCI_MSIX_IRQ_INDEX as MSIX,
};
use vfio_user::Client;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};
use vmm_sys_util::tempdir::TempDir;

const VRAM: u64 = 16 << 20;
const BAR0: u32 = 0;
const BAR1: u32 = 1;
const BAR3: u32 = 3;

/// A device with its server in a thread.
struct Served {
    device: Arc<Device>,
    path: PathBuf,
    server: JoinHandle<std::io::Result<()>>,
    _dir: TempDir,
}

impl Served {
    fn new(persist: bool) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.as_path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let msix = Arc::new(Msix::default());
        let config = Config {
            vram_bytes: VRAM,
            ..Config::default()
        };
        let device = Device::new(config, Arc::clone(&msix) as _).unwrap();
        let served = Arc::clone(&device);
        let server = std::thread::spawn(move || serve(listener, &served, &msix, persist));
        Served {
            device,
            path,
            server,
            _dir: dir,
        }
    }

    fn client(&self) -> Client {
        Client::new(&self.path).unwrap()
    }

    /// The guest's memory, as the device sees it.
    fn dma_read(&self, at: u64) -> Option<u32> {
        let at = PhysAddr::new(Aperture::SysCoherent, at);
        self.device.core().mem.enter().read_u32(at).ok()
    }
}

fn read32(client: &mut Client, region: u32, offset: u64) -> u32 {
    let mut data = [0; 4];
    client.region_read(region, offset, &mut data).unwrap();
    u32::from_le_bytes(data)
}

fn write32(client: &mut Client, region: u32, offset: u64, value: u32) {
    client
        .region_write(region, offset, &value.to_le_bytes())
        .unwrap();
}

fn memfd(bytes: &[u8]) -> File {
    // SAFETY: The name is a C string.
    let fd = unsafe { libc::memfd_create(c"guest".as_ptr(), 0) };
    assert!(fd >= 0);
    // SAFETY: A new descriptor that nobody else owns.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(bytes).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file
}

/// Finds a capability in configuration space.
fn capability(client: &mut Client, id: u32) -> u64 {
    let mut at = u64::from(read32(client, CONFIG, 0x34) & 0xff);
    while at != 0 {
        let header = read32(client, CONFIG, at);
        if header & 0xff == id {
            return at;
        }
        at = u64::from((header >> 8) & 0xff);
    }
    panic!("no capability {id:#x}");
}

fn bus_master(client: &mut Client, on: bool) {
    write32(client, CONFIG, 4, if on { 6 } else { 2 });
}

#[test]
fn identity_and_regions() {
    let served = Served::new(false);
    let mut client = served.client();
    assert_eq!(read32(&mut client, CONFIG, 0), 0x10f0_1af4);
    assert_eq!(read32(&mut client, CONFIG, 8) >> 8, 0x12_0000);
    assert_eq!(read32(&mut client, BAR0, 0), 0x1620_00a1);
    assert_eq!(client.region(BAR0).unwrap().size, 16 << 20);
    assert_eq!(client.region(BAR1).unwrap().size, VRAM);
    assert_eq!(client.region(BAR3).unwrap().size, 4096);
    assert_eq!(client.get_irq_info(MSIX).unwrap().count, 16);
    client.shutdown().unwrap();
    served.server.join().unwrap().unwrap();
}

#[test]
fn vram_is_one_memory_by_descriptor_and_by_message() {
    let served = Served::new(false);
    let mut client = served.client();
    let region = client.region(BAR1).unwrap();
    assert_eq!(region.sparse_areas.len(), 1);
    assert_eq!(region.sparse_areas[0].size, VRAM);
    let file = region.file_offset.as_ref().unwrap().file();
    file.write_all_at(b"vram", 0x1234).unwrap();
    let mut data = [0; 4];
    client.region_read(BAR1, 0x1234, &mut data).unwrap();
    assert_eq!(&data, b"vram");
}

#[test]
fn dma_needs_a_mapping_and_bus_mastering() {
    let served = Served::new(false);
    let mut client = served.client();
    let guest = memfd(&[0x5a; 8192]);
    client
        .dma_map(4096, 0x10_0000, 4096, guest.as_raw_fd())
        .unwrap();
    assert_eq!(served.dma_read(0x10_0000), None);
    bus_master(&mut client, true);
    assert_eq!(served.dma_read(0x10_0000), Some(0x5a5a_5a5a));
    assert_eq!(served.dma_read(0x10_1000), None);
    bus_master(&mut client, false);
    assert_eq!(served.dma_read(0x10_0000), None);
    bus_master(&mut client, true);
    client.dma_unmap(0x10_0000, 4096).unwrap();
    assert_eq!(served.dma_read(0x10_0000), None);
}

#[test]
fn an_interrupt_reaches_its_eventfd() {
    let served = Served::new(false);
    let mut client = served.client();
    let events: Vec<EventFd> = (0..16)
        .map(|_| EventFd::new(EFD_NONBLOCK).unwrap())
        .collect();
    let fds: Vec<_> = events.iter().map(AsRawFd::as_raw_fd).collect();
    let msix = capability(&mut client, 0x11);
    client.region_write(CONFIG, msix + 2, &[0, 0x80]).unwrap();
    bus_master(&mut client, true);
    let eventfds = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    client.set_irqs(MSIX, eventfds, 0, 16, &fds).unwrap();
    // Vector 64: leaf 2, subtree 1.
    write32(&mut client, BAR0, 0xb8_1200 + 8, 1);
    write32(&mut client, BAR0, 0xb8_1608, 2);
    write32(&mut client, BAR0, 0xb8_1640, 64);
    assert_eq!(read32(&mut client, BAR0, 0xb8_1008), 1);
    assert_eq!(events[1].read().unwrap(), 1);
    assert!(events[0].read().is_err());
    // Without eventfds the message waits in the pending bit array.
    let none = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
    client.set_irqs(MSIX, none, 0, 0, &[]).unwrap();
    write32(&mut client, BAR0, 0xb8_1008, 1);
    write32(&mut client, BAR0, 0xb8_1640, 64);
    assert!(events[1].read().is_err());
    assert_eq!(read32(&mut client, BAR3, 0x800), 2);
    client.set_irqs(MSIX, eventfds, 0, 16, &fds).unwrap();
    assert_eq!(events[1].read().unwrap(), 1);
}

#[test]
fn reset_switches_bus_mastering_off() {
    let served = Served::new(false);
    let mut client = served.client();
    let guest = memfd(&[1; 4096]);
    client.dma_map(0, 0, 4096, guest.as_raw_fd()).unwrap();
    bus_master(&mut client, true);
    client.reset().unwrap();
    assert_eq!(read32(&mut client, CONFIG, 4) & 4, 0);
    assert_eq!(served.dma_read(0), None);
    bus_master(&mut client, true);
    assert_eq!(
        served.dma_read(0),
        Some(0x0101_0101),
        "mappings survive a reset"
    );
}

#[test]
fn a_removed_device_reads_as_ones() {
    let served = Served::new(false);
    let mut client = served.client();
    served.device.remove();
    for region in [CONFIG, BAR0, BAR1, BAR3] {
        assert_eq!(read32(&mut client, region, 0), u32::MAX);
        write32(&mut client, region, 0, 0);
        assert_eq!(read32(&mut client, region, 0), u32::MAX);
    }
    let file = client.region(BAR1).unwrap().file_offset.as_ref().unwrap();
    // Filling it takes a moment, which a register access must not wait for.
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut data = [0; 8];
    while data != [0xff; 8] {
        assert!(Instant::now() < deadline, "device memory reads {data:x?}");
        file.file().read_exact_at(&mut data, VRAM - 8).unwrap();
    }
}

#[test]
fn accesses_outside_the_regions_are_answered() {
    let served = Served::new(false);
    let mut client = served.client();
    assert_eq!(read32(&mut client, BAR0, (16 << 20) - 2), u32::MAX);
    assert_eq!(read32(&mut client, BAR0, u64::MAX - 1), u32::MAX);
    assert_eq!(read32(&mut client, BAR1, VRAM), u32::MAX);
    assert_eq!(read32(&mut client, BAR3, 4096), u32::MAX);
    assert_eq!(read32(&mut client, 2, 0), u32::MAX);
    for (region, offset) in [
        (BAR0, 16 << 20),
        (BAR1, VRAM),
        (BAR3, 4096),
        (2, 0),
        (CONFIG, 1 << 40),
    ] {
        write32(&mut client, region, offset, 1);
    }
    let mut huge = vec![1; 64 << 20];
    client.region_read(BAR0, 0, &mut huge).unwrap();
    assert!(huge.iter().all(|byte| *byte == 0));
    assert_eq!(read32(&mut client, BAR0, 0), 0x1620_00a1);
}

/// A message by hand: header, then `body`; returns the reply's error field.
fn message(stream: &mut UnixStream, command: u16, body: &[u8]) -> u32 {
    let mut bytes = vec![];
    bytes.extend_from_slice(&7u16.to_le_bytes());
    bytes.extend_from_slice(&command.to_le_bytes());
    bytes.extend_from_slice(&(16 + body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(body);
    stream.write_all(&bytes).unwrap();
    let mut reply = [0; 16];
    stream.read_exact(&mut reply).unwrap();
    let field = |at: usize| u32::from_le_bytes(reply[at..at + 4].try_into().unwrap());
    assert_eq!(field(0), 7 | (u32::from(command) << 16));
    let mut rest = vec![0; field(4) as usize - 16];
    stream.read_exact(&mut rest).unwrap();
    field(12)
}

fn connect(served: &Served) -> UnixStream {
    let stream = UnixStream::connect(&served.path).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream
}

#[test]
fn memory_without_a_descriptor_is_answered_and_unreachable() {
    let served = Served::new(false);
    let mut stream = connect(&served);
    let mut map = vec![];
    map.extend_from_slice(&32u32.to_le_bytes());
    map.extend_from_slice(&3u32.to_le_bytes());
    for word in [0u64, 0xf000_0000, 4096] {
        map.extend_from_slice(&word.to_le_bytes());
    }
    assert_eq!(message(&mut stream, 2, &map), 0);
    served.device.set_bus_master(true);
    assert_eq!(served.dma_read(0xf000_0000), None);
}

#[test]
fn after_nonsense_the_next_client_is_served() {
    let served = Served::new(true);
    let nonsense: [&[u8]; 4] = [
        b"\0\0\x01\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\0\0\x01\0\x16\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0{x",
        b"\0\0\xff\xff\x10\0\0\0\0\0\0\0\0\0\0\0",
        b"\0\0\x09\0\x20\0\0\0\0\0\0\0\0\0\0\0",
    ];
    for bytes in nonsense {
        let mut stream = connect(&served);
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // The server closes the connection; what it says before is its own.
        let mut said = vec![];
        let _ = stream.read_to_end(&mut said);
        let mut client = served.client();
        assert_eq!(read32(&mut client, BAR0, 0), 0x1620_00a1);
        client.shutdown().unwrap();
    }
}

#[test]
fn the_next_client_finds_a_reset_device_without_memory() {
    let served = Served::new(true);
    let guest = memfd(&[1; 4096]);
    let mut first = served.client();
    first.dma_map(0, 0, 4096, guest.as_raw_fd()).unwrap();
    bus_master(&mut first, true);
    first.shutdown().unwrap();
    let mut second = served.client();
    assert_eq!(read32(&mut second, CONFIG, 4) & 4, 0);
    bus_master(&mut second, true);
    assert_eq!(served.dma_read(0), None);
    second.dma_map(0, 0, 4096, guest.as_raw_fd()).unwrap();
    assert_eq!(served.dma_read(0), Some(0x0101_0101));
}
