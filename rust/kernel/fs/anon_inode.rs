// SPDX-License-Identifier: GPL-2.0

//! Files that have no name: a file descriptor as the handle of a kernel object.
//!
//! C header: [`include/linux/anon_inodes.h`](srctree/include/linux/anon_inodes.h)

use super::{
    file::flags,
    File, //
};
use crate::{
    bindings,
    error::from_err_ptr,
    iov::IovIterDest,
    module::this_module,
    prelude::*,
    sync::{
        aref::ARef,
        poll::PollTable, //
    },
    types::ForeignOwnable, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

/// What [`AnonInode::poll`] reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PollMask(u32);

impl PollMask {
    /// A read does not block: `EPOLLIN | EPOLLRDNORM`.
    pub const READABLE: Self = Self(bindings::POLLIN | bindings::POLLRDNORM);
    /// The other end is gone: `EPOLLHUP`.
    pub const HANGUP: Self = Self(bindings::POLLHUP);

    /// The raw `__poll_t`.
    const fn as_raw(self) -> u32 {
        self.0
    }
}

impl core::ops::BitOr for PollMask {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The operations of a read-only stream behind an anonymous inode.
///
/// Such a file has no position: it cannot be sought, and reads of several threads run at the same
/// time. It keeps the module that implements it loaded.
#[vtable]
pub trait AnonInode: Sized {
    /// What the file owns; dropped when its last descriptor is closed.
    type Ptr: ForeignOwnable + Send + Sync + 'static;

    /// Shown as `anon_inode:NAME` in `/proc/PID/fd`; by convention in square brackets.
    const NAME: &'static CStr;

    /// Reads into `iov` and returns the number of bytes, zero at the end of the stream.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if `nonblocking` and there is nothing to read.
    fn read(
        this: <Self::Ptr as ForeignOwnable>::Borrowed<'_>,
        iov: &mut IovIterDest<'_>,
        nonblocking: bool,
    ) -> Result<usize>;

    /// Tells whether a read would block, after having registered with everything that can change
    /// the answer.
    fn poll(
        this: <Self::Ptr as ForeignOwnable>::Borrowed<'_>,
        file: &File,
        table: &PollTable<'_>,
    ) -> PollMask;
}

/// Makes a file that owns `data`. It is installed into a descriptor with
/// [`FileDescriptorReservation`](super::file::FileDescriptorReservation).
///
/// # Errors
///
/// `ENOMEM` and `ENFILE`, and `ENOENT` if the module is being unloaded. `data` is dropped then.
pub fn new_file<T: AnonInode>(data: T::Ptr) -> Result<ARef<File>> {
    let data = data.into_foreign();
    // SAFETY: The name and the operations are static, and the operations expect `T::Ptr` as
    // private data. They hold a reference on their module.
    let file = unsafe {
        bindings::anon_inode_getfile(
            T::NAME.as_char_ptr(),
            Operations::<T>::TABLE,
            data,
            flags::O_RDONLY as ffi::c_int,
        )
    };
    let file = from_err_ptr(file).inspect_err(|_| {
        // SAFETY: There is no file, so nothing else will turn the pointer back.
        drop(unsafe { T::Ptr::from_foreign(data) });
    })?;
    // SAFETY: The file is new and nobody else has it. `stream_open` ignores the inode.
    unsafe { bindings::stream_open(core::ptr::null_mut(), file) };
    // SAFETY: The reference to the new file is handed over. No `fdget_pos` can be active on a file
    // that is in no descriptor table.
    Ok(unsafe { ARef::from_raw(NonNull::new_unchecked(file.cast())) })
}

struct Operations<T>(PhantomData<T>);

impl<T: AnonInode> Operations<T> {
    const TABLE: &'static bindings::file_operations = &bindings::file_operations {
        owner: this_module::<T::OwnerModule>().as_ptr(),
        read_iter: Some(Self::read_iter),
        poll: Some(Self::poll),
        release: Some(Self::release),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// `kiocb` and `iter` must be valid, and the file one made by [`new_file`] for `T`.
    unsafe extern "C" fn read_iter(
        kiocb: *mut bindings::kiocb,
        iter: *mut bindings::iov_iter,
    ) -> isize {
        // SAFETY: `kiocb` is valid and its file is open.
        let file = unsafe { (*kiocb).ki_filp };
        // SAFETY: The file is open, so it owns its private data, which came from `into_foreign`.
        let this = unsafe { T::Ptr::borrow((*file).private_data) };
        // SAFETY: The file is open. It is a stream, so there is no `fdget_pos` with effect.
        let nonblocking = unsafe { File::from_raw_file(file) }.flags() & flags::O_NONBLOCK != 0;
        // SAFETY: This is a destination that only this call uses.
        let iov = unsafe { IovIterDest::from_raw(iter) };
        match T::read(this, iov, nonblocking) {
            Ok(bytes) => bytes as isize,
            Err(err) => err.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// `file` must be one made by [`new_file`] for `T`, and `table` null or valid.
    unsafe extern "C" fn poll(
        file: *mut bindings::file,
        table: *mut bindings::poll_table,
    ) -> bindings::__poll_t {
        // SAFETY: As in `read_iter`.
        let this = unsafe { T::Ptr::borrow((*file).private_data) };
        // SAFETY: As in `read_iter`.
        let file = unsafe { File::from_raw_file(file) };
        // SAFETY: The table is null or valid during this call.
        let table = unsafe { PollTable::from_raw(table) };
        T::poll(this, file, &table).as_raw()
    }

    /// # Safety
    ///
    /// `file` must be one made by [`new_file`] for `T`, and be on its way out.
    unsafe extern "C" fn release(
        _inode: *mut bindings::inode,
        file: *mut bindings::file,
    ) -> ffi::c_int {
        // SAFETY: This is the last use of the private data.
        drop(unsafe { T::Ptr::from_foreign((*file).private_data) });
        0
    }
}

#[kunit_tests(rust_anon_inode)]
mod tests {
    use super::*;
    use crate::{
        new_poll_condvar,
        new_spinlock,
        sync::{
            poll::PollCondVar,
            Arc,
            ArcBorrow,
            SpinLock, //
        }, //
    };

    /// A countdown; the file ends when it has reached zero, and a negative one has nothing yet.
    #[pin_data(PinnedDrop)]
    struct Countdown {
        #[pin]
        left: SpinLock<i8>,
        #[pin]
        changed: PollCondVar,
        dropped: Arc<SpinLock<bool>>,
    }

    #[pinned_drop]
    impl PinnedDrop for Countdown {
        fn drop(self: Pin<&mut Self>) {
            *self.dropped.lock() = true;
        }
    }

    #[vtable]
    impl AnonInode for Countdown {
        type Ptr = Arc<Self>;
        const NAME: &'static CStr = c"[countdown]";

        fn read(
            this: ArcBorrow<'_, Self>,
            iov: &mut IovIterDest<'_>,
            nonblocking: bool,
        ) -> Result<usize> {
            let mut left = this.left.lock();
            match *left {
                0 => Ok(0),
                n if n < 0 && nonblocking => Err(EAGAIN),
                n if n < 0 => Err(EINVAL),
                n => {
                    *left -= 1;
                    drop(left);
                    Ok(iov.copy_to_iter(&[n as u8]))
                }
            }
        }

        fn poll(this: ArcBorrow<'_, Self>, file: &File, table: &PollTable<'_>) -> PollMask {
            table.register_wait(file, &this.changed);
            match *this.left.lock() {
                0 => PollMask::READABLE | PollMask::HANGUP,
                n if n < 0 => PollMask::default(),
                _ => PollMask::READABLE,
            }
        }
    }

    type Started = (ARef<File>, Arc<Countdown>, Arc<SpinLock<bool>>);

    fn countdown(from: i8) -> Result<Started> {
        let dropped = Arc::pin_init(new_spinlock!(false), GFP_KERNEL)?;
        let in_data = dropped.clone();
        let data = Arc::pin_init(
            pin_init!(Countdown {
                left <- new_spinlock!(from),
                changed <- new_poll_condvar!(),
                dropped: in_data,
            }),
            GFP_KERNEL,
        )?;
        Ok((new_file::<Countdown>(data.clone())?, data, dropped))
    }

    fn read(file: &File, buf: &mut [u8]) -> isize {
        // SAFETY: The file is open and the buffer valid for its length.
        unsafe {
            bindings::kernel_read(
                file.as_ptr(),
                buf.as_mut_ptr().cast(),
                buf.len(),
                core::ptr::null_mut(),
            )
        }
    }

    fn poll(file: &File) -> u32 {
        // SAFETY: The file is open and was made by `new_file`; no table means no waiting.
        unsafe { Operations::<Countdown>::poll(file.as_ptr(), core::ptr::null_mut()) }
    }

    #[test]
    fn records_are_read_until_the_end() -> Result {
        let (file, _data, _) = countdown(2)?;
        let mut buf = [0u8; 4];
        assert_eq!(poll(&file), PollMask::READABLE.as_raw());
        assert_eq!(read(&file, &mut buf), 1);
        assert_eq!(buf[0], 2);
        assert_eq!(read(&file, &mut buf), 1);
        assert_eq!(buf[0], 1);
        assert_eq!(read(&file, &mut buf), 0);
        assert_eq!(
            poll(&file),
            (PollMask::READABLE | PollMask::HANGUP).as_raw()
        );
        Ok(())
    }

    #[test]
    fn errors_reach_the_reader() -> Result {
        let (file, _data, _) = countdown(-1)?;
        assert_eq!(poll(&file), 0);
        assert_eq!(read(&file, &mut [0u8; 1]), EINVAL.to_errno() as isize);
        Ok(())
    }

    #[test]
    fn file_has_no_position() -> Result {
        let (file, _data, _) = countdown(1)?;
        // SAFETY: The file is open.
        let pos =
            unsafe { bindings::vfs_llseek(file.as_ptr(), 0, bindings::SEEK_SET as ffi::c_int) };
        assert_eq!(pos, i64::from(ESPIPE.to_errno()));
        Ok(())
    }

    #[test]
    fn last_reference_drops_the_data() -> Result {
        let (file, data, dropped) = countdown(1)?;
        drop(data);
        assert!(!*dropped.lock());
        drop(file);
        // SAFETY: Runs what `fput` of a kernel thread left to a worker. No file is in use here.
        unsafe { bindings::flush_delayed_fput() };
        assert!(*dropped.lock());
        Ok(())
    }
}
