// SPDX-License-Identifier: GPL-2.0

//! rsvm: a GPU uses any pointer of a process.

use kernel::{
    device::Core,
    pci,
    prelude::*, //
};

struct Rsvm;

kernel::pci_device_table!(
    PCI_TABLE,
    <Rsvm as pci::Driver>::IdInfo,
    [(
        pci::DeviceId::from_id(pci::Vendor::REDHAT_QUMRANET, 0x10f0),
        ()
    )]
);

impl pci::Driver for Rsvm {
    type IdInfo = ();
    type Data<'bound> = ();

    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        pdev: &'bound pci::Device<Core<'_>>,
        _info: Option<&'bound Self::IdInfo>,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        pdev.enable_device_mem()?;
        dev_info!(pdev, "bound\n");
        Ok(())
    }
}

kernel::module_pci_driver! {
    type: Rsvm,
    name: "rsvm",
    authors: ["rsvm developers"],
    description: "Shared virtual memory for GPUs",
    license: "GPL v2",
}
