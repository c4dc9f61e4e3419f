//! What an API server says over a WebSocket: the output of commands in containers, logs.

use super::https::{Account, Https, connect};
use futures_util::StreamExt;
use http::HeaderValue;
use std::sync::Arc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// The channel of a command's standard output in `channel.k8s.io` and its successors.
const STDOUT: u8 = 1;

/// Everything that the server sends until it hangs up, or why it did not agree to talk.
#[track_caller]
pub(crate) fn messages(
    https: &Https,
    account: &Arc<Account>,
    path: &str,
    protocol: &'static str,
) -> Result<Vec<Vec<u8>>, String> {
    let (account, url) = (account.clone(), format!("wss://knarr{path}"));
    https.run(async move {
        let mut request = url.into_client_request().map_err(|error| error.to_string())?;
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(protocol));
        let stream = connect(&account).await;
        let (mut socket, answer) =
            tokio_tungstenite::client_async(request, stream).await.map_err(|error| error.to_string())?;
        assert_eq!(answer.headers()["sec-websocket-protocol"], protocol);
        let mut heard = Vec::new();
        while let Some(message) = socket.next().await {
            match message.map_err(|error| error.to_string())? {
                Message::Binary(bytes) => heard.push(bytes.to_vec()),
                Message::Text(text) => heard.push(text.as_bytes().to_vec()),
                _ => {}
            }
        }
        Ok(heard)
    })
}

/// The standard output among the messages of a command's streams.
pub(crate) fn stdout(messages: &[Vec<u8>]) -> String {
    let pieces = messages.iter().filter(|message| message.first() == Some(&STDOUT));
    let bytes: Vec<u8> = pieces.flat_map(|message| &message[1..]).copied().collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
