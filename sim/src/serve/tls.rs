//! TLS on the members' ports.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, ServerConnection, crypto};
use x509_cert::der::Decode;

use super::{ServeError, TlsOptions};

/// What shakes hands with clients.
///
/// # Errors
/// `Tls`: a file that cannot be read, or is not what it should be.
pub(crate) fn acceptor(options: &TlsOptions) -> Result<TlsAcceptor, ServeError> {
    let chain = certificates(&options.certificate)?;
    let key_path = options.key.as_ref().unwrap_or(&options.certificate);
    let key = PrivateKeyDer::from_pem_slice(&read(key_path)?)
        .map_err(|problem| refused(key_path, problem))?;
    // Chosen here, whatever else the process has chosen.
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|problem| refused(&options.certificate, problem))?;
    let builder = match &options.authorities {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|problem| refused(path, problem))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|problem| refused(path, problem))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let config = builder
        .with_single_cert(chain, key)
        .map_err(|problem| refused(&options.certificate, problem))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The subject of the certificate a client has shown, as RFC 4514 writes it.
pub(crate) fn subject(connection: &ServerConnection) -> Option<String> {
    let shown = connection.peer_certificates()?.first()?;
    let certificate = x509_cert::Certificate::from_der(shown.as_ref()).ok()?;
    Some(certificate.tbs_certificate.subject.to_string())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ServeError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let found = found.map_err(|problem| refused(path, problem))?;
    if found.is_empty() {
        return Err(refused(path, "no certificate in it"));
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, ServeError> {
    fs::read(path).map_err(|problem| refused(path, problem))
}

fn refused(path: &Path, problem: impl std::fmt::Display) -> ServeError {
    ServeError::Tls { path: path.to_owned(), problem: problem.to_string() }
}
