//! The receiver's tasks: one listens, one per connection reads and answers.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::header::CONTENT_LENGTH;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::answer::{Answer, Body, Manner};
use super::{ReceivedRequest, Shared};

/// What a request's answer may demand of its connection's task instead of an HTTP response.
enum Takeover {
    Reset,
    Raw(Bytes),
}

/// A byte stream whose socket can be told to reset.
trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    fn socket(&self) -> &TcpStream;

    /// What the client has shown.
    fn client_certificate(&self) -> Option<CertificateDer<'static>>;
}

impl Socket for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }

    fn client_certificate(&self) -> Option<CertificateDer<'static>> {
        None
    }
}

impl Socket for TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }

    fn client_certificate(&self) -> Option<CertificateDer<'static>> {
        let (_, session) = self.get_ref();
        Some(session.peer_certificates()?.first()?.clone().into_owned())
    }
}

/// Accepts until aborted. Connections live in this task's set, so that they are cut when it is.
pub(super) async fn listen(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    let mut number = 0;
    loop {
        let Ok((stream, _peer)) = listener.accept().await else {
            continue;
        };
        // Finished connections would otherwise pile up in the set.
        while connections.try_join_next().is_some() {}
        number += 1;
        shared.connections.send_replace(number);
        let _ = stream.set_nodelay(true);
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            match tls {
                None => serve(stream, number, shared).await,
                Some(acceptor) => {
                    // A client that refuses our certificate has had its answer.
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, number, shared).await;
                    }
                }
            }
        });
    }
}

async fn serve(stream: impl Socket, connection: u64, shared: Arc<Shared>) {
    let (demand, mut demanded) = mpsc::channel(1);
    let certificate = stream.client_certificate();
    let service = service_fn(|request| {
        let origin = (connection, certificate.clone());
        respond(request, origin, Arc::clone(&shared), demand.clone())
    });
    let mut http = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // Ends when the peer closes or a body is cut short; errors are the peer's business.
        _ = &mut http => {}
        Some(takeover) = demanded.recv() => {
            let mut stream = http.into_parts().io.into_inner();
            match takeover {
                Takeover::Reset => {
                    let _ = stream.socket().set_zero_linger();
                }
                Takeover::Raw(bytes) => {
                    let _ = stream.write_all(&bytes).await;
                    let _ = stream.shutdown().await;
                }
            }
        }
    }
}

async fn respond(
    request: Request<Incoming>,
    (connection, client_certificate): (u64, Option<CertificateDer<'static>>),
    shared: Arc<Shared>,
    demand: mpsc::Sender<Takeover>,
) -> Result<Response<UnsyncBoxBody<Bytes, io::Error>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let received = ReceivedRequest {
        connection,
        arrived_at: Instant::now(),
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(str::to_owned),
        headers: head.headers,
        body,
        client_certificate,
    };
    let Answer { delay, manner } = shared.record(&received);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    match manner {
        Manner::Http {
            status,
            headers,
            body,
        } => {
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = status;
            response.headers_mut().extend(headers);
            if let Body::CutShort {
                announced_bytes, ..
            } = &body
            {
                response
                    .headers_mut()
                    .insert(CONTENT_LENGTH, (*announced_bytes).into());
            }
            Ok(response.map(|_empty| stream_of(body)))
        }
        Manner::Hang => std::future::pending().await,
        Manner::Reset => take_over(&demand, Takeover::Reset).await,
        Manner::Raw(bytes) => take_over(&demand, Takeover::Raw(bytes)).await,
    }
}

/// Never returns: the connection's task drops this future when it takes over.
async fn take_over<T>(demand: &mpsc::Sender<Takeover>, takeover: Takeover) -> T {
    let _ = demand.send(takeover).await;
    std::future::pending().await
}

fn stream_of(body: Body) -> UnsyncBoxBody<Bytes, io::Error> {
    match body {
        Body::Whole(bytes) => Full::new(bytes)
            .map_err(|never| match never {})
            .boxed_unsync(),
        Body::CutShort { sent, .. } => {
            // An error from the body makes hyper drop the connection, after it has flushed what came before.
            let cut = io::Error::from(io::ErrorKind::ConnectionAborted);
            let pieces = stream::iter([Ok(Frame::data(sent))]).chain(stream::once(async {
                // Lets the first piece out before the connection goes.
                tokio::task::yield_now().await;
                Err(cut)
            }));
            BodyExt::boxed_unsync(StreamBody::new(pieces))
        }
        Body::Trickle {
            piece,
            pause,
            pieces,
        } => {
            let pieces = stream::unfold(0_u64, move |sent| {
                let piece = piece.clone();
                async move {
                    if pieces.is_some_and(|pieces| sent >= pieces) {
                        return None;
                    }
                    if pause.is_zero() {
                        tokio::task::yield_now().await;
                    } else {
                        tokio::time::sleep(pause).await;
                    }
                    Some((Ok(Frame::data(piece)), sent + 1))
                }
            });
            BodyExt::boxed_unsync(StreamBody::new(pieces))
        }
    }
}
