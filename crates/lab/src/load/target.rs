//! Who is asked.

use lava_proto::v1;
use lava_proto::v1::inference_client::InferenceClient;
use tonic::transport::Channel;

use crate::served::{Error, connect, pick};

/// Requests that share a connection. HTTP/2 lets a server bound them, and then a client holds the others
/// back, which would look like a slow server.
const CONNECTION_REQUESTS: usize = 256;

/// Bytes of an answer that may be on their way to a client with pauses. A few messages fill them, so that the
/// server has to wait with the next one.
const WAITING_WINDOW_BYTES: u32 = 1 << 10;

/// One model of a coordinator.
#[derive(Debug, Clone)]
pub struct Target {
    clients: Vec<InferenceClient<Channel>>,
    /// Likewise, for clients with pauses.
    waiting: Vec<InferenceClient<Channel>>,
    model: v1::Model,
}

impl Target {
    /// Connects to the coordinator at `address` (host:port), so often that `in_flight_max` requests do
    /// not stand in each other's way, and picks a model by name, or the only one.
    ///
    /// # Errors
    /// Nobody answers, or the model is not there.
    pub async fn connect(
        address: &str,
        model: Option<&str>,
        in_flight_max: usize,
    ) -> Result<Target, Error> {
        let mut first = connect(address, None).await?;
        let model = pick(&mut first, model).await?;
        let (mut clients, mut waiting) = (vec![first], Vec::new());
        for index in 0..in_flight_max.div_ceil(CONNECTION_REQUESTS) {
            if index > 0 {
                clients.push(connect(address, None).await?);
            }
            waiting.push(connect(address, Some(WAITING_WINDOW_BYTES)).await?);
        }
        Ok(Target {
            clients,
            waiting,
            model,
        })
    }

    /// The same model of another coordinator too; requests take turns.
    pub fn and(mut self, other: Target) -> Target {
        let mut both = Vec::new();
        let mut others = other.clients.into_iter();
        for client in self.clients {
            both.push(client);
            both.extend(others.next());
        }
        both.extend(others);
        self.clients = both;
        self.waiting.extend(other.waiting);
        self
    }

    /// Its name.
    pub fn model(&self) -> &str {
        &self.model.name
    }

    /// Most tokens of a prompt and its answer together.
    pub fn context_tokens(&self) -> u32 {
        self.model.context_tokens
    }

    /// Token ids.
    pub(super) fn vocabulary(&self) -> u32 {
        self.model.vocabulary
    }

    /// The connection of request `index`: they take turns. Clients with pauses have their own.
    pub(super) fn client(&self, index: usize, waits: bool) -> InferenceClient<Channel> {
        let clients = match waits {
            true => &self.waiting,
            false => &self.clients,
        };
        clients[index % clients.len()].clone()
    }
}
