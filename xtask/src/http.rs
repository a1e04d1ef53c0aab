//! The little HTTP that a look at a process takes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Time for an answer. A process that was stopped still accepts connections and then says nothing.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The body of a page, if the process answers with 200.
pub(crate) fn get(address: SocketAddr, path: &str) -> Option<String> {
    let answer = ask(address, path).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?;
    (status == "200").then(|| body.to_owned())
}

/// HTTP/1.0, so that no answer comes in chunks.
fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: xtask\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
