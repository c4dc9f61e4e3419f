//! `kubectl auth`: what one may do, who one is, and roles as files say.

mod can_i;
mod reconcile;
mod rules;
mod whoami;

use crate::error::Error;
use crate::session::Session;
pub(crate) use can_i::{VERBS, list_of};
use clap::Subcommand;
pub(crate) use rules::Rule;

/// What is asked or done.
#[derive(Subcommand)]
pub(crate) enum Auth {
    /// Ask whether something is allowed
    #[command(name = "can-i")]
    CanI(can_i::CanI),
    /// Show who the server takes one for
    Whoami(whoami::Whoami),
    /// Give roles and bindings what files say
    Reconcile(reconcile::Reconcile),
}

pub(crate) async fn run(session: &Session, command: &Auth) -> Result<(), Error> {
    match command {
        Auth::CanI(args) => can_i::run(session, args).await,
        Auth::Whoami(args) => whoami::run(session, args).await,
        Auth::Reconcile(args) => reconcile::run(session, args).await,
    }
}
