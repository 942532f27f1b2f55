//! An address that stays while brokers come and go: each connection is led to the present one.
//!
//! A broker that is started again on its old port could find it taken; so each picks a new one.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{TcpListener, TcpStream};

/// Leads connections to the broker that runs now.
pub(crate) struct Proxy {
    url: String,
    target: Arc<Mutex<String>>,
}

impl Proxy {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("it has an address"));
        let target = Arc::<Mutex<String>>::default();
        tokio::spawn(serve(listener, Arc::clone(&target)));
        Self { url, target }
    }

    /// The address for clients.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Connections go there from now on.
    pub(crate) fn lead_to(&self, address: &str) {
        address.clone_into(&mut self.target.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

async fn serve(listener: TcpListener, target: Arc<Mutex<String>>) {
    while let Ok((mut client, _)) = listener.accept().await {
        let address = target.lock().unwrap_or_else(PoisonError::into_inner).clone();
        tokio::spawn(async move {
            // Where nobody listens, the client's connection is closed.
            if let Ok(mut broker) = TcpStream::connect(&address).await {
                let set = [client.set_nodelay(true), broker.set_nodelay(true)];
                drop(set);
                drop(tokio::io::copy_bidirectional(&mut client, &mut broker).await);
            }
        });
    }
}
