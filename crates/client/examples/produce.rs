//! Appends each line of standard input to a topic: `produce TOPIC [SERVER]`.

use std::io::BufRead as _;

use taffrail_client::{Client, Record};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let topic = arguments.next().ok_or("usage: produce TOPIC [SERVER]")?;
    let server = arguments.next().unwrap_or_else(|| "http://127.0.0.1:7245".to_owned());

    let client = Client::connect(&server)?;
    let producer = client.producer(&topic).build().await?;
    let mut last = None;
    for line in std::io::stdin().lock().lines() {
        last = Some(producer.send(Record::value(line?.as_bytes())).await?);
    }
    if let Some(delivery) = last {
        let placed = delivery.await?;
        println!("the last record is at offset {:?} of {}", placed.offset, placed.partition);
    }
    producer.close().await?;
    Ok(())
}
