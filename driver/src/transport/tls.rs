//! TLS with rustls, over the byte streams of whatever transport.
//!
//! The session is driven by hand over a [`Stream`], so that the same code serves sockets on tokio,
//! blocking sockets, and transports of third parties. TLS 1.2 and 1.3; certificates are verified
//! against the system's authorities or a given file, and against the host's name. Revocation is not
//! checked: the options about OCSP and revocation lists change nothing.

use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};

use super::Stream;
use crate::error::{Error, ErrorKind, Result};
use crate::options::TlsOptions;
use crate::time::Instant;

/// Wraps byte streams in TLS; made once per client.
#[derive(Clone, Debug)]
pub struct TlsConnector {
    config: Arc<ClientConfig>,
}

impl TlsConnector {
    /// Reads certificates and keys as `options` say.
    ///
    /// # Errors
    /// `InvalidTlsConfig` if a file cannot be read or holds nothing usable, or if no authorities are
    /// known.
    pub fn new(options: &TlsOptions) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let insecure = options.insecure == Some(true);
        let any_certificate = insecure || options.allow_invalid_certificates == Some(true);
        let any_name = insecure || options.allow_invalid_hostnames == Some(true);
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(invalid)?;
        let builder = if any_certificate {
            let verifier = AnyCertificate { provider };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        } else {
            let roots = Arc::new(roots(options)?);
            let inner = WebPkiServerVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(invalid)?;
            if any_name {
                let verifier = Arc::new(AnyName { inner });
                builder.dangerous().with_custom_certificate_verifier(verifier)
            } else {
                builder.with_webpki_verifier(inner)
            }
        };
        let config = match &options.cert_key_file_path {
            Some(path) => {
                let (chain, key) = certificate_and_key(path, options)?;
                builder.with_client_auth_cert(chain, key).map_err(invalid)?
            }
            None => builder.with_no_client_auth(),
        };
        Ok(TlsConnector { config: Arc::new(config) })
    }

    /// Shakes hands over `stream` with the server called `host`, until the stream's deadline.
    ///
    /// # Errors
    /// `InvalidData` if the server's certificate is refused or the server breaks the protocol,
    /// `InvalidInput` for a host that is no name, and what the stream fails with.
    pub async fn connect(
        &self,
        stream: Box<dyn Stream>,
        host: &str,
    ) -> io::Result<Box<dyn Stream>> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let session = ClientConnection::new(self.config.clone(), name)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let mut stream = TlsStream { stream, session: Box::new(session), accepted: 0 };
        poll_fn(|cx| stream.poll_handshake(cx)).await?;
        Ok(Box::new(stream))
    }
}

/// A byte stream inside TLS.
struct TlsStream {
    stream: Box<dyn Stream>,
    session: Box<ClientConnection>,
    /// Bytes of the caller that are encrypted and not sent whole yet.
    accepted: usize,
}

impl TlsStream {
    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.is_handshaking() {
            if self.poll_flush(cx)?.is_pending() {
                return Poll::Pending;
            }
            if self.session.is_handshaking() {
                match self.poll_receive(cx)? {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                    Poll::Ready(_) => {}
                }
            }
        }
        self.poll_flush(cx)
    }

    /// Sends what the session has ready.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            let mut pipe = Pipe { stream: &mut *self.stream, cx };
            match self.session.write_tls(&mut pipe) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Receives something for the session; `Ok(0)` is the end of the stream.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut pipe = Pipe { stream: &mut *self.stream, cx };
        match self.session.read_tls(&mut pipe) {
            Ok(count) => {
                if let Err(error) = self.session.process_new_packets() {
                    // The server is to hear why, if it still listens.
                    let _ = self.poll_flush(cx);
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
                Poll::Ready(Ok(count))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl Stream for TlsStream {
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.accepted == 0 {
            self.accepted = self.session.writer().write(bytes)?;
        }
        // Said to be written only when it is sent: nobody may come to flush it later.
        match self.poll_flush(cx)? {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => Poll::Ready(Ok(std::mem::take(&mut self.accepted))),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.session.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
            // An answer to a key update, say.
            let _ = self.poll_flush(cx)?;
            match self.poll_receive(cx)? {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(_) => {}
            }
        }
    }

    fn set_deadline(&mut self, at: Option<Instant>) {
        self.stream.set_deadline(at);
    }

    fn is_dirty(&mut self) -> bool {
        if !self.stream.is_dirty() {
            return false;
        }
        // A server may have sent session tickets: these do no harm.
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            match self.poll_receive(&mut cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(count)) if count > 0 => {}
                Poll::Ready(_) => return true,
            }
        }
        let blocked = self.session.reader().read(&mut [0]).err().map(|error| error.kind());
        blocked != Some(io::ErrorKind::WouldBlock)
    }
}

impl Drop for TlsStream {
    fn drop(&mut self) {
        self.session.send_close_notify();
        let _ = self.poll_flush(&mut Context::from_waker(Waker::noop()));
    }
}

/// A stream as rustls wants to see it: what is not ready would block.
struct Pipe<'a, 'b, 'c> {
    stream: &'a mut dyn Stream,
    cx: &'b mut Context<'c>,
}

impl Read for Pipe<'_, '_, '_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.stream.poll_read(self.cx, into) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Pipe<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.stream.poll_write(self.cx, bytes) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The authorities that are trusted.
fn roots(options: &TlsOptions) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &options.ca_file_path {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| invalid(format!("{path}: {error}")))?;
        }
        return Ok(roots);
    }
    let found = rustls_native_certs::load_native_certs();
    // Systems ship certificates that are too old to be read: those are left out.
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let why = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        return Err(invalid(format!(
            "this system has no certificates of authorities{why}; name a file with tlsCAFile"
        )));
    }
    Ok(roots)
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>> {
    let pem = read(path)?;
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|error| invalid(format!("{path}: {error}")))?;
    if found.is_empty() {
        return Err(invalid(format!("{path} holds no certificate (PEM)")));
    }
    Ok(found)
}

fn certificate_and_key(
    path: &str,
    options: &TlsOptions,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let pem = read(path)?;
    if options.tls_certificate_key_file_password.is_some()
        || pem.windows(9).any(|window| window == b"ENCRYPTED")
    {
        return Err(invalid(format!(
            "{path}: encrypted keys (tlsCertificateKeyFilePassword) are not supported; decrypt it \
             with `openssl pkey`"
        )));
    }
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|error| invalid(format!("the private key in {path}: {error}")))?;
    Ok((certificates(path)?, key))
}

fn read(path: &str) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| invalid(format!("{path}: {error}")))
}

fn invalid(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidTlsConfig { message: error.to_string() })
}

/// Takes any certificate; that its key signed the handshake is verified all the same.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Takes a certificate of a trusted authority whatever name is in it.
#[derive(Debug)]
struct AnyName {
    inner: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        // The chain is verified before the name.
        let verified = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verified {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(options: &TlsOptions) -> String {
        TlsConnector::new(options).unwrap_err().to_string()
    }

    #[test]
    fn files_that_are_not_there_or_hold_nothing_are_named() {
        let with_ca =
            |path: &str| TlsOptions { ca_file_path: Some(path.to_owned()), ..Default::default() };
        assert!(refused(&with_ca("/nonexistent/ca.pem")).contains("/nonexistent/ca.pem"));
        let no_certificate = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        assert!(refused(&with_ca(no_certificate)).contains("no certificate"));
    }

    #[test]
    fn without_verification_no_authorities_are_needed() {
        let options = TlsOptions { insecure: Some(true), ..Default::default() };
        assert!(TlsConnector::new(&options).is_ok());
    }
}
