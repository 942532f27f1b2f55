//! Plain HTTP to a broker's address, and the numbers of `/metrics`.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::broker::{Broker, PATIENCE};
use crate::door::soon;

/// Gets a path: the head of the answer, and its body.
pub(crate) async fn get(broker: &Broker, path: &str) -> (String, String) {
    let mut stream = soon(TcpStream::connect(broker.address)).await.expect("the broker serves");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it listens");
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
    (head.to_owned(), body.to_owned())
}

/// The value of a metric that counts; with labels, name it as it is written.
pub(crate) async fn metric(broker: &Broker, name: &str) -> u64 {
    let value = decimal(broker, name).await;
    assert!(value.fract().abs() < f64::EPSILON, "{name} is not a whole number");
    value as u64
}

/// The value of any metric.
pub(crate) async fn decimal(broker: &Broker, name: &str) -> f64 {
    let (_, body) = get(broker, "/metrics").await;
    let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{body}"));
    line.parse().expect("a number")
}

/// Waits until a metric is what it should be.
pub(crate) async fn await_metric(broker: &Broker, name: &str, is_right: impl Fn(u64) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = metric(broker, name).await;
        if is_right(found) {
            return;
        }
        assert!(Instant::now() < deadline, "{name} stays {found}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
