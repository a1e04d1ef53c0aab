//! The one port with the metrics of all processes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use super::metrics::{self, Page};
use crate::http;

/// Time for a scraper to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
const REQUEST_BYTES_MAX: u64 = 8192;

/// Where each process has its metrics. Clones share the table: a worker that comes back is elsewhere.
#[derive(Clone, Default)]
pub(crate) struct Targets(Arc<Mutex<BTreeMap<String, SocketAddr>>>);

impl Targets {
    pub(crate) fn set(&self, process: &str, http: SocketAddr) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.insert(process.to_owned(), http);
    }

    fn list(&self) -> Vec<(String, SocketAddr)> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.iter().map(|(name, at)| (name.clone(), *at)).collect()
    }

    /// Asks all at once: those that hang take their time together.
    fn pages(&self) -> Vec<Page> {
        let ask = |(process, at): (String, SocketAddr)| Page {
            process,
            text: http::get(at, "/metrics"),
        };
        std::thread::scope(|scope| {
            let list = self.list().into_iter();
            let asked: Vec<_> = list.map(|to| scope.spawn(move || ask(to))).collect();
            let pages = asked.into_iter().map(|page| page.join());
            pages
                .map(|page| page.expect("asking cannot panic"))
                .collect()
        })
    }
}

/// Serves from here on, on a thread that ends with xtask; returns where.
pub(crate) fn serve(targets: Targets) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no port is free")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A scraper that left gets no answer.
            let _ = answer(stream, &targets);
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream, targets: &Targets) -> std::io::Result<()> {
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    let mut request = BufReader::new(&stream).take(REQUEST_BYTES_MAX);
    let mut first = String::new();
    request.read_line(&mut first)?;
    // All of it is read, or the scraper would see a reset instead of the answer.
    let mut line = String::new();
    while request.read_line(&mut line)? > 2 {
        line.clear();
    }
    let path = first.split(' ').nth(1);
    let (status, body) = match first.starts_with("GET ") && path == Some("/metrics") {
        true => ("200 OK", metrics::join(&targets.pages())),
        false => ("404 Not Found", "there is /metrics\n".to_owned()),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\n\
         Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_of_the_scrape_tells_who_is_up() {
        let empty = serve(Targets::default()).unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
        let targets = Targets::default();
        targets.set("a", empty);
        targets.set("b", gone.unwrap());
        let all = serve(targets).unwrap();
        let page = http::get(all, "/metrics").unwrap();
        assert!(page.contains("up{process=\"a\"} 1\n"), "{page}");
        assert!(page.contains("up{process=\"b\"} 0\n"), "{page}");
        assert_eq!(page.matches("# EOF").count(), 1);
        assert_eq!(http::get(all, "/"), None);
    }
}
