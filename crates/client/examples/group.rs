//! Shares a topic with every other process that runs this: `group TOPIC GROUP [SERVER]`. Ctrl-C leaves.

use taffrail_client::Client;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let topic = arguments.next().ok_or("usage: group TOPIC GROUP [SERVER]")?;
    let group = arguments.next().ok_or("usage: group TOPIC GROUP [SERVER]")?;
    let server = arguments.next().unwrap_or_else(|| "http://127.0.0.1:7245".to_owned());

    let client = Client::connect(&server)?;
    let mut consumer = client.group(&group).topic(&topic).build().await?;
    loop {
        let batch = tokio::select! {
            batch = consumer.next_batch() => batch,
            _ = tokio::signal::ctrl_c() => break,
        };
        // What was handed out before is done now, and is committed in the background.
        let Some(batch) = batch else { break };
        let batch = batch?;
        for record in batch.records() {
            let record = record?;
            let value = String::from_utf8_lossy(record.value.unwrap_or_default());
            println!("{}/{}: {value}", batch.partition, record.offset);
        }
    }
    consumer.close().await?;
    Ok(())
}
