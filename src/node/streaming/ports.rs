//! Forwarded ports as channels over WebSocket, which clients speak that do not tunnel SPDY: two for each port, one for
//! its bytes and one for what is wrong with it. Both begin with the port's number.

use super::channels::Dialect;
use super::relay::Relay;
use base::spdy::Frame;
use std::io::Result;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::Message;

/// One channel, and the stream of the runtime that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Channel {
    number: u8,
    stream: u32,
    port: u16,
    /// It tells what is wrong.
    is_error: bool,
}

/// The channels of ports, in the order in which peers open their streams: errors first.
fn channels(ports: &[u16]) -> Vec<Channel> {
    let of = |(at, port): (u8, &u16)| {
        let stream = u32::from(at) * 4 + 1;
        [
            Channel { number: at * 2 + 1, stream, port: *port, is_error: true },
            Channel { number: at * 2, stream: stream + 2, port: *port, is_error: false },
        ]
    };
    (0u8..).zip(ports).flat_map(of).collect()
}

fn headers(channel: &Channel) -> Vec<(String, String)> {
    let kind = if channel.is_error { "error" } else { "data" };
    let request = (channel.number / 2).to_string();
    let all = [("streamtype", kind.to_owned()), ("port", channel.port.to_string()), ("requestid", request)];
    all.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Forwards until the ports are closed, or the caller goes.
pub(super) async fn forward<S, B>(caller: S, backend: B, ports: &[u16], dialect: Dialect) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let channels = channels(ports);
    let mut relay = Relay::new(caller, backend).await;
    for channel in &channels {
        let fin = channel.is_error;
        relay.open(Frame::Open { stream: channel.stream, headers: headers(channel), fin }).await?;
    }
    // Callers read the channels' beginnings in the order of their numbers.
    for channel in channels.chunks(2).flat_map(|pair| pair.iter().rev()) {
        if let Some(first) = dialect.message(channel.number, &channel.port.to_le_bytes()) {
            relay.tell(first).await?;
        }
    }
    let open = channels.iter().filter(|own| !own.is_error).map(|own| own.stream).collect();
    let tell = |stream, bytes: &[u8]| {
        let channel = channels.iter().find(|own| own.stream == stream)?;
        dialect.message(channel.number, bytes)
    };
    let hear = |message: &Message| {
        let (number, bytes, fin) = dialect.read(message)?;
        let channel = channels.iter().find(|own| own.number == number && !own.is_error)?;
        Some(Frame::Data { stream: channel.stream, bytes, fin })
    };
    relay.run(open, tell, hear).await
}

#[cfg(test)]
mod tests {
    use super::super::channels::{DIALECTS, V4};
    use super::*;
    use base::spdy::{Reader, Writer};
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    fn binary(bytes: &[u8]) -> Message {
        Message::Binary(bytes.to_vec().into())
    }

    #[tokio::test]
    async fn each_port_has_a_channel_for_bytes_and_one_for_errors() {
        let (caller, near) = tokio::io::duplex(4096);
        let (backend, far) = tokio::io::duplex(4096);
        let dialect = DIALECTS.into_iter().find(|dialect| dialect.protocol == V4).unwrap();
        let forwarding = forward(near, backend, &[80, 258], dialect);
        let runtime = async {
            let (from, to) = tokio::io::split(far);
            let (mut reader, mut writer) = (Reader::new(from), Writer::new(to));
            let mut opened = Vec::new();
            while opened.len() < 4 {
                let Some(Frame::Open { stream, headers, .. }) = reader.next().await.unwrap() else {
                    panic!()
                };
                opened.push((stream, headers[0].1.clone(), headers[1].1.clone()));
            }
            let named = |stream, kind: &str, port: &str| (stream, kind.to_owned(), port.to_owned());
            assert_eq!(opened[..2], [named(1, "error", "80"), named(3, "data", "80")]);
            assert_eq!(opened[2..], [named(5, "error", "258"), named(7, "data", "258")]);
            let Some(Frame::Data { stream, bytes, .. }) = reader.next().await.unwrap() else { panic!() };
            assert_eq!((stream, bytes.as_slice()), (7, &b"ask"[..]));
            for (stream, bytes, fin) in [(7, "told", true), (1, "refused", false), (3, "", true)] {
                writer.send(&Frame::Data { stream, bytes: bytes.into(), fin }).await.unwrap();
            }
        };
        let client = async {
            let mut socket = WebSocketStream::from_raw_socket(caller, Role::Client, None).await;
            for first in [[0, 80, 0], [1, 80, 0], [2, 2, 1], [3, 2, 1]] {
                assert_eq!(socket.next().await.unwrap().unwrap(), binary(&first));
            }
            socket.send(binary(b"\x02ask")).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), binary(b"\x02told"));
            assert_eq!(socket.next().await.unwrap().unwrap(), binary(b"\x01refused"));
            assert!(socket.next().await.unwrap().unwrap().is_close());
        };
        let (forwarded, (), ()) = tokio::join!(forwarding, runtime, client);
        forwarded.unwrap();
    }
}
