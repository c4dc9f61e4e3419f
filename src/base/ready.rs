//! Tells whoever waits that a room works.

use tokio::sync::watch;

/// Whether a room's task has said that it works. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ready(watch::Receiver<bool>);

impl Ready {
    /// Follows what the room's task says.
    pub fn of(sender: &watch::Sender<bool>) -> Self {
        Self(sender.subscribe())
    }

    /// Completes when it works for the first time.
    pub async fn ready(&self) {
        // The sender lives in the room's task; without it the process is ending.
        if self.0.clone().wait_for(|ready| *ready).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_told_and_who_is_left_alone_waits_on() {
        let sender = watch::Sender::new(false);
        let ready = Ready::of(&sender);
        assert!(tokio::time::timeout(Duration::from_secs(1), ready.ready()).await.is_err());
        sender.send_replace(true);
        ready.ready().await;
        let left = Ready::of(&watch::Sender::new(false));
        assert!(tokio::time::timeout(Duration::from_secs(1), left.ready()).await.is_err());
    }
}
