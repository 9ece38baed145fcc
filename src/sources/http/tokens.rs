//! What the threads of one run share of its credentials: one token for all of them, and a refresh token that is never
//! spent twice.
//!
//! A server that rotates refresh tokens forgets the old one when it gives a new one (RFC 6749, section 6). So the one to
//! send is read where it is kept right before it is sent, and the new one is kept there before anything else is done:
//! both by the side that may call Postgres, of which a thread asks it as an [`Errand`].

use std::collections::HashMap;
use std::io;
use std::sync::{mpsc, Arc, Condvar, Mutex, PoisonError};

use super::auth::Authenticator;
use super::client::Client;
use super::control::SLICE;
use super::failure::{code, Failure, Trouble};
use super::queue::{queue, Receiver, Sender, Weight};
use super::secret::Secret;
use crate::sources::spec::Spec;

/// What a thread needs of the side that stores.
#[derive(Debug)]
pub struct Errand {
    /// The secret's name.
    pub name: String,
    /// What it was, and what it is to be from now on. None: tell what it is.
    pub rotated: Option<(Secret, Secret)>,
    reply: mpsc::SyncSender<Result<Secret, Failure>>,
}

impl Errand {
    /// The secret as it is now.
    pub fn answer(self, result: Result<Secret, Failure>) {
        // A thread that waits no more was told to stop.
        let _ = self.reply.try_send(result);
    }
}

impl Weight for Errand {
    fn bytes(&self) -> usize {
        0
    }
}

/// Where errands are asked for.
pub struct Desk(Sender<Errand>);

impl Desk {
    /// The secret as it is kept now.
    pub fn current(&self, name: &str, client: &Client) -> Result<Secret, Trouble> {
        self.ask(name, None, client)
    }

    /// Has `new` kept in the place of `old`.
    pub fn rotate(&self, name: &str, old: Secret, new: Secret, client: &Client) -> Result<Secret, Trouble> {
        self.ask(name, Some((old, new)), client)
    }

    fn ask(&self, name: &str, rotated: Option<(Secret, Secret)>, client: &Client) -> Result<Secret, Trouble> {
        let (reply, answer) = mpsc::sync_channel(1);
        let errand = Errand { name: name.to_owned(), rotated, reply };
        if self.0.send(errand, SLICE, || true) {
            loop {
                match answer.recv_timeout(SLICE) {
                    Ok(result) => return result.map_err(Trouble::lasting),
                    Err(mpsc::RecvTimeoutError::Timeout) => client.check_run()?,
                    Err(mpsc::RecvTimeoutError::Disconnected) => break,
                }
            }
        }
        Err(Trouble::lasting(Failure::new(code::CANCELED, "canceled while waiting for a secret")))
    }
}

struct Shared {
    /// Away while a thread uses it.
    authenticator: Mutex<Option<Authenticator>>,
    back: Condvar,
}

/// The credentials of a run, for all its threads.
#[derive(Clone)]
pub struct Tokens(Arc<Shared>);

impl Tokens {
    /// Those of a run, and the errands that somebody has to do for it.
    pub fn new(spec: &Spec, secrets: &Arc<HashMap<String, Secret>>) -> io::Result<(Tokens, Receiver<Errand>)> {
        let (sender, errands) = queue(super::WAITING_BYTES)?;
        Ok((Tokens::of(spec, secrets, Some(Desk(sender))), errands))
    }

    /// Those of a run that keeps no secret.
    #[cfg(test)]
    pub fn alone(spec: &Spec, secrets: &Arc<HashMap<String, Secret>>) -> Tokens {
        Tokens::of(spec, secrets, None)
    }

    fn of(spec: &Spec, secrets: &Arc<HashMap<String, Secret>>, desk: Option<Desk>) -> Tokens {
        let authenticator = Authenticator::new(spec.auth.clone(), Arc::clone(secrets), desk);
        Tokens(Arc::new(Shared { authenticator: Mutex::new(Some(authenticator)), back: Condvar::new() }))
    }

    /// Waits until no other thread uses them: one asks for a new token, and the others have it then.
    pub(super) fn with<T>(
        &self,
        client: &Client,
        f: impl FnOnce(&mut Authenticator) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        /// Puts it back, whatever comes.
        struct Held<'a>(&'a Shared, Option<Authenticator>);
        impl Drop for Held<'_> {
            fn drop(&mut self) {
                *self.0.authenticator.lock().unwrap_or_else(PoisonError::into_inner) = self.1.take();
                self.0.back.notify_all();
            }
        }
        let mut place = self.0.authenticator.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = loop {
            match place.take() {
                None => {
                    client.check_run()?;
                    place = self.0.back.wait_timeout(place, SLICE).unwrap_or_else(PoisonError::into_inner).0;
                }
                there => break Held(&self.0, there),
            }
        };
        drop(place);
        match &mut held.1 {
            Some(authenticator) => f(authenticator),
            None => Err(Trouble::lasting(Failure::new(code::FDW_ERROR, "the credentials are away"))),
        }
    }
}
