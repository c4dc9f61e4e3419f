//! Channels over WebSocket (`channel.k8s.io` and its successors), translated to the streams that the
//! runtime serves over SPDY.

use super::relay::Relay;
use super::route::Streams;
use base::spdy::Frame;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::io::Result;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::Message;

/// Channels as the runtime speaks them.
pub(super) const V4: &str = "v4.channel.k8s.io";

/// What a subprotocol says about its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dialect {
    pub(super) protocol: &'static str,
    /// Messages are text: the channel's digit, then base64.
    base64: bool,
    /// The error channel tells the status of the command also where it is a success, as JSON.
    statuses: bool,
    /// A message can close a channel (KEP-4006).
    closable: bool,
}

const BINARY: Dialect = Dialect { protocol: "", base64: false, statuses: false, closable: false };

/// Every dialect, the best first; a client that names none speaks the last.
pub(super) const DIALECTS: [Dialect; 6] = [
    Dialect { protocol: "v5.channel.k8s.io", statuses: true, closable: true, ..BINARY },
    Dialect { protocol: V4, statuses: true, ..BINARY },
    Dialect { protocol: "v4.base64.channel.k8s.io", statuses: true, base64: true, ..BINARY },
    Dialect { protocol: "channel.k8s.io", ..BINARY },
    Dialect { protocol: "base64.channel.k8s.io", base64: true, ..BINARY },
    BINARY,
];

/// Those that ports are forwarded by; a client that names none speaks the last.
pub(super) fn of_ports() -> [Dialect; 3] {
    [DIALECTS[1], DIALECTS[2], BINARY]
}

/// The channel that tells how the command ended.
const ERROR: u8 = 3;
/// The first byte of a message that closes the channel named by the second.
const CLOSE: u8 = 255;

/// Channels by number, with the names of the streams they become.
const CHANNELS: [(u8, &str); 5] = [(0, "stdin"), (1, "stdout"), (2, "stderr"), (3, "error"), (4, "resize")];

impl Dialect {
    /// A message of a channel; none for what this dialect does not tell.
    pub(super) fn message(self, channel: u8, content: &[u8]) -> Option<Message> {
        let told = if channel == ERROR && !self.statuses { failure(content)? } else { content.to_vec() };
        if self.base64 {
            let digit = char::from(b'0'.saturating_add(channel));
            return Some(Message::text(format!("{digit}{}", STANDARD.encode(told))));
        }
        Some(Message::Binary([&[channel], told.as_slice()].concat().into()))
    }

    /// The channel of a message with its content, and whether it closes that channel.
    pub(super) fn read(self, message: &Message) -> Option<(u8, Vec<u8>, bool)> {
        match message {
            Message::Text(text) if self.base64 => {
                let (digit, rest) = text.as_bytes().split_first()?;
                Some((digit.checked_sub(b'0')?, STANDARD.decode(rest).ok()?, false))
            }
            Message::Binary(bytes) if !self.base64 => match bytes.as_ref() {
                [CLOSE, channel] if self.closable => Some((*channel, Vec::new(), true)),
                [channel, content @ ..] => Some((*channel, content.to_vec(), false)),
                [] => None,
            },
            _ => None,
        }
    }
}

/// The message of a status that is a failure.
fn failure(status: &[u8]) -> Option<Vec<u8>> {
    let status: serde_json::Value = serde_json::from_slice(status).ok()?;
    let failed = status["status"] != "Success";
    failed.then(|| status["message"].as_str().unwrap_or_default().as_bytes().to_vec())
}

/// Which channels exist for these streams, in the order that peers open them.
fn wanted(streams: Streams) -> Vec<(u8, u32)> {
    let exists = |channel: u8| match channel {
        0 => streams.stdin,
        1 => streams.stdout,
        2 => streams.stderr && !streams.tty,
        4 => streams.tty,
        _ => true,
    };
    let order = [3u8, 0, 1, 2, 4];
    order.into_iter().filter(|channel| exists(*channel)).zip((1u32..).step_by(2)).collect()
}

/// Translates until the command has ended and its status was passed on.
pub(super) async fn translate<S, B>(caller: S, backend: B, streams: Streams, dialect: Dialect) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let ids = wanted(streams);
    let mut relay = Relay::new(caller, backend).await;
    for (channel, stream) in &ids {
        let name = CHANNELS.iter().find(|(number, _)| number == channel).map_or("", |(_, name)| name);
        let headers = vec![("streamtype".to_owned(), name.to_owned())];
        relay.open(Frame::Open { stream: *stream, headers, fin: false }).await?;
    }
    if streams.stdout
        && let Some(empty) = dialect.message(1, &[])
    {
        // Tells the caller that the streams are there.
        relay.tell(empty).await?;
    }
    let of_stream = |stream: u32| ids.iter().find(|(_, id)| *id == stream);
    let of_channel = |channel: u8| ids.iter().find(|(number, _)| *number == channel);
    let open = ids.iter().filter(|(channel, _)| (1..=3).contains(channel)).map(|(_, id)| *id).collect();
    let tell = |stream, bytes: &[u8]| dialect.message(of_stream(stream)?.0, bytes);
    let hear = |message: &Message| {
        let (channel, bytes, fin) = dialect.read(message)?;
        Some(Frame::Data { stream: of_channel(channel)?.1, bytes, fin })
    };
    relay.run(open, tell, hear).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dialects_write_and_read_messages() {
        let [v5, v4, .., old_text, plain] = DIALECTS;
        let success = br#"{"status":"Success"}"#;
        let failed = br#"{"status":"Failure","message":"exit code 3"}"#;
        assert_eq!(v4.message(3, success), Some(Message::Binary([&[3], &success[..]].concat().into())));
        assert_eq!(plain.message(3, success), None);
        assert_eq!(plain.message(3, failed), Some(Message::Binary(b"\x03exit code 3".to_vec().into())));
        assert_eq!(old_text.message(1, b"hi"), Some(Message::text("1aGk=")));
        assert_eq!(old_text.read(&Message::text("0aGk=")), Some((0, b"hi".to_vec(), false)));
        let close = Message::Binary(vec![255, 0].into());
        assert_eq!(
            (v5.read(&close), v4.read(&close)),
            (Some((0, vec![], true)), Some((255, vec![0], false)))
        );
        assert_eq!(v4.read(&Message::text("0aGk=")), None);
    }

    #[test]
    fn a_terminal_has_no_separate_errors() {
        let streams = Streams { stdin: true, stdout: true, stderr: true, tty: true };
        assert_eq!(wanted(streams), [(3, 1), (0, 3), (1, 5), (4, 7)]);
        assert_eq!(wanted(Streams { tty: false, stdin: false, ..streams }), [(3, 1), (1, 3), (2, 5)]);
    }
}
