// SPDX-License-Identifier: GPL-2.0

//! References that keep a module loaded.

use super::ThisModule;
use crate::bindings;

/// A reference on a module: it is not unloaded while this lives.
///
/// The code that drops the last reference is still running then, so it has to be kept loaded by
/// other means, such as a [`ModuleQueue`](crate::workqueue::ModuleQueue) that is drained at exit.
///
/// # Invariants
///
/// Owns one count of the module; a null pointer is built-in code, which has none.
///
/// # Examples
///
/// ```
/// use kernel::module::this_module;
///
/// // Built-in code can always be referenced.
/// let reference = this_module::<crate::LocalModule>().try_get();
/// assert!(reference.is_some());
/// assert!(reference.clone().is_some());
/// ```
pub struct ModuleRef(*mut bindings::module);

// SAFETY: Any thread may put a module.
unsafe impl Send for ModuleRef {}
// SAFETY: Nothing can be done through a shared reference but counting, which is atomic.
unsafe impl Sync for ModuleRef {}

impl ThisModule {
    /// Keeps the module loaded; `None` if it is being unloaded already.
    pub fn try_get(&self) -> Option<ModuleRef> {
        // SAFETY: The pointer is null or this module, whose code is running.
        unsafe { bindings::try_module_get(self.as_ptr()) }
            // INVARIANT: The count was just taken.
            .then(|| ModuleRef(self.as_ptr()))
    }
}

impl Clone for ModuleRef {
    fn clone(&self) -> Self {
        // SAFETY: By the type invariant the module has a count, so another may be added.
        unsafe { bindings::__module_get(self.0) };
        // INVARIANT: The count was just taken.
        Self(self.0)
    }
}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the count is ours.
        unsafe { bindings::module_put(self.0) };
    }
}
