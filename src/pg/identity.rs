//! Acting as somebody else, with nothing they wrote able to change who we are.

use pgrx::pg_sys;

/// Switches the current user until dropped, as `ExecRefreshMatView` (src/backend/commands/matview.c) does:
/// inside a security-restricted operation `SET ROLE`, `RESET` and temporary objects are refused.
pub struct As {
    user: pg_sys::Oid,
    context: i32,
}

impl As {
    pub fn user(role: u32) -> Self {
        let mut saved = As { user: pg_sys::InvalidOid, context: 0 };
        // SAFETY: out-parameters point at live fields; the switch is undone on drop, and by the transaction
        // machinery on error (AbortTransaction restores the outer identity).
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut saved.user, &mut saved.context);
            pg_sys::SetUserIdAndSecContext(
                role.into(),
                saved.context | (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION) as i32,
            );
        }
        saved
    }
}

impl Drop for As {
    fn drop(&mut self) {
        // SAFETY: restores what new read.
        unsafe { pg_sys::SetUserIdAndSecContext(self.user, self.context) }
    }
}
