//! What other replicas change: the server tells of every commit.
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use syshold_protocol::{HostId, RequestId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Client};

use super::connect::Target;

/// How long after a lost connection a new one is tried.
const AGAIN: Duration = Duration::from_secs(1);

/// Something changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Of(RequestId),
    /// Approvals of that host were taken back.
    Revoked(HostId),
    /// Something else, or we did not listen for a while.
    Any,
}

impl Change {
    fn read(said: &str) -> Self {
        let revoked = said.strip_prefix("revoked ").map(str::parse);
        match revoked {
            Some(Ok(host)) => Self::Revoked(host),
            Some(Err(_)) => Self::Any,
            None => said.parse().map_or(Self::Any, Self::Of),
        }
    }
}

/// Tells of changes, from when it is first asked.
#[expect(missing_debug_implementations, reason = "holds a connection")]
pub struct Changes {
    target: Arc<Target>,
    listening: Option<Listening>,
}

struct Listening {
    _client: Client,
    heard: mpsc::Receiver<Change>,
    connection: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Changes {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self {
            target,
            listening: None,
        }
    }

    /// The next one. Dropped before it is done, it has lost nothing.
    pub async fn next(&mut self) -> Change {
        loop {
            if let Some(listening) = &mut self.listening {
                if let Some(change) = listening.heard.recv().await {
                    return change;
                }
                tracing::warn!("the database tells of no changes: the connection was lost");
                self.listening = None;
                tokio::time::sleep(AGAIN).await;
            }
            match self.listen().await {
                Ok(listening) => {
                    self.listening = Some(listening);
                    return Change::Any;
                }
                Err(error) => {
                    tracing::warn!(%error, "the database tells of no changes");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    async fn listen(&self) -> Result<Listening, tokio_postgres::Error> {
        let (client, mut connection) = self.target.connect().await?;
        let (tell, heard) = mpsc::channel(1024);
        let connection = tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(said) = message
                    && tell.send(Change::read(said.payload())).await.is_err()
                {
                    return;
                }
            }
        });
        let listening = Listening {
            _client: client,
            heard,
            connection,
        };
        let keep = "SET tcp_keepalives_idle = 10; LISTEN syshold";
        listening._client.batch_execute(keep).await?;
        Ok(listening)
    }
}
