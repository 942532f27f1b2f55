//! Prints a topic from its beginning, then what comes: `consume TOPIC [SERVER]`.

use taffrail_client::{Client, Event, Position};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let topic = arguments.next().ok_or("usage: consume TOPIC [SERVER]")?;
    let server = arguments.next().unwrap_or_else(|| "http://127.0.0.1:7245".to_owned());

    let client = Client::connect(&server)?;
    let mut consumer = client.consumer().topic(&topic).from(Position::Earliest).build().await?;
    while let Some(event) = consumer.next_event().await {
        match event? {
            Event::Batch(batch) => {
                for record in batch.records() {
                    let record = record?;
                    let value = String::from_utf8_lossy(record.value.unwrap_or_default());
                    println!("{}/{}: {value}", batch.partition, record.offset);
                }
            }
            Event::Gap { from, to, reason, .. } => eprintln!("nothing in {from}..{to}: {reason:?}"),
            Event::Heartbeat { .. } => {}
        }
    }
    Ok(())
}
