// What Go resumes after a rotation: one server, its CA withdrawn, and the client's identity changed, inside one
// tls.Config, as clients in Go do it. With the standard library alone. Exit code 0 when what docs/COMPARE.md says is seen.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"os"
	"runtime"
	"time"
)

type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(name string) authority {
	key, certificate := mint(name, nil)
	return authority{certificate, key}
}

func (ca authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.certificate)
	return pool
}

func (ca authority) issue(name string) tls.Certificate {
	key, certificate := mint(name, &ca)
	return tls.Certificate{Certificate: [][]byte{certificate.Raw}, PrivateKey: key, Leaf: certificate}
}

func mint(name string, by *authority) (*ecdsa.PrivateKey, *x509.Certificate) {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber:          must(rand.Int(rand.Reader, big.NewInt(1<<62))),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		BasicConstraintsValid: true,
		IsCA:                  by == nil,
		DNSNames:              []string{"localhost"},
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.certificate, by.key
	}
	der := must(x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer))
	return key, must(x509.ParseCertificate(der))
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

// serve answers each connection with the name of the identity that it was shown.
func serve(identity tls.Certificate, clients *x509.CertPool) net.Listener {
	listener := must(tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{identity},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    clients,
	}))
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer connection.Close()
				server := connection.(*tls.Conn)
				if server.Handshake() == nil {
					fmt.Fprint(server, server.ConnectionState().PeerCertificates[0].Subject.CommonName)
				}
			}()
		}
	}()
	return listener
}

// ask makes a connection. It returns whose identity the server saw, and whether a session was resumed.
func ask(listener net.Listener, config *tls.Config) (string, bool, error) {
	connection, err := tls.Dial("tcp", listener.Addr().String(), config)
	if err != nil {
		return "", false, err
	}
	defer connection.Close()
	answer, err := io.ReadAll(connection)
	return string(answer), connection.ConnectionState().DidResume, err
}

func main() {
	fmt.Println(runtime.Version())
	good := true
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		old, other, clients := newAuthority("old"), newAuthority("other"), newAuthority("clients")
		listener := serve(old.issue("localhost"), clients.pool())
		identity := clients.issue("first")
		config := &tls.Config{
			ServerName:         "localhost",
			RootCAs:            old.pool(),
			MinVersion:         version,
			MaxVersion:         version,
			ClientSessionCache: tls.NewLRUClientSessionCache(0),
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return &identity, nil
			},
		}
		must2(ask(listener, config))
		if _, resumed := must2(ask(listener, config)); !resumed {
			log.Fatal("no session is resumed, so this shows nothing")
		}
		identity = clients.issue("second")
		shown, resumed := must2(ask(listener, config))
		// The cache is the same one: a client in Go that follows a bundle clones its config.
		config = config.Clone()
		config.RootCAs = other.pool()
		_, _, err := ask(listener, config)
		fmt.Printf("%s: shows the identity %q (resumed: %t); the withdrawn CA: %v\n",
			tls.VersionName(version), shown, resumed, err)
		good = good && shown == "first" && resumed && err != nil
		listener.Close()
	}
	if !good {
		os.Exit(1)
	}
}

func must2(shown string, resumed bool, err error) (string, bool) {
	if err != nil {
		log.Fatal(err)
	}
	return shown, resumed
}
