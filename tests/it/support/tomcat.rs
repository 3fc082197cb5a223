//! A real Tomcat with a small application that has the login, the sessions and the queries of Kylin
//! 2-4.
//!
//! Kylin is a Tomcat application. Tomcat determines what a front end must handle: when a session
//! starts, what its cookie looks like, and that another node does not know it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::port::free_port;
use super::process::Process;
use super::skip;

const HOME: &str = "/usr/share/tomcat10";
/// The time limit for the start of Tomcat. On an idle machine it takes about two seconds.
const START_TIMEOUT: Duration = Duration::from_secs(240);

/// Login, query and logout. A login ends the old session, like the fixation protection of Spring
/// Security. Basic credentials without a session start one. A query takes at least two
/// milliseconds, so that the nodes are about equally fast on a busy machine, or as long as
/// `sleep_ms(250)` in it says. Every other call of a user is a job, which takes as long as
/// `sleep_ms250` in its path says. Each of them writes a line to the file `executed` when it
/// begins.
const APPLICATION: &str = r#"<%@ page contentType="application/json;charset=UTF-8" session="false" trimDirectiveWhitespaces="true"
    import="java.util.Base64,java.nio.charset.StandardCharsets" %><%
    String path = request.getServletPath() + (request.getPathInfo() == null ? "" : request.getPathInfo());
    String basic = request.getHeader("Authorization");
    String claimed = null;
    if (basic != null && basic.startsWith("Basic ")) {
        String pair = new String(Base64.getDecoder().decode(basic.substring(6)), StandardCharsets.UTF_8);
        int colon = pair.indexOf(':');
        if (colon > 0 && pair.substring(colon + 1).equals("KYLIN")) claimed = pair.substring(0, colon);
        if (claimed == null) { response.setStatus(401); out.print("{\"code\":\"999\",\"msg\":\"bad credentials\"}"); return; }
    }
    jakarta.servlet.http.HttpSession known = request.getSession(false);
    String user = known == null ? null : (String) known.getAttribute("user");
    boolean login = path.equals("/api/user/authentication") && request.getMethod().equals("POST");
    if (path.equals("/j_spring_security_logout")) {
        if (known != null) known.invalidate();
        jakarta.servlet.http.Cookie gone = new jakarta.servlet.http.Cookie("JSESSIONID", "");
        gone.setMaxAge(0); gone.setPath("/kylin"); response.addCookie(gone);
        response.sendRedirect("/kylin/"); return;
    }
    if (claimed != null && (login || !claimed.equals(user))) {
        if (known != null) known.invalidate();
        request.getSession(true).setAttribute("user", claimed);
        application.setAttribute("logins", 1 + (application.getAttribute("logins") == null ? 0 : (Integer) application.getAttribute("logins")));
        user = claimed;
    }
    if (path.equals("/api/admin/version")) { out.print("{\"kylin.version\":\"3.1.3\",\"kylin.version.commitId\":\"none\"}"); return; }
    if (path.equals("/api/logins")) { out.print(application.getAttribute("logins") == null ? 0 : application.getAttribute("logins")); return; }
    if (user == null) {
        if (path.equals("/api/user/authentication")) { out.print("{}"); return; }
        response.setStatus(401); out.print("{\"code\":\"999\",\"msg\":\"not logged in\"}"); return;
    }
    if (path.startsWith("/api/user/authentication")) { out.print("{\"userDetails\":{\"username\":\"" + user + "\"}}"); return; }
    String sql = path;
    if (path.equals("/api/query")) {
        sql = request.getReader().lines().collect(java.util.stream.Collectors.joining());
        sql = sql.substring(sql.indexOf("select"), sql.indexOf('"', sql.indexOf("select")));
    }
    try (java.io.FileOutputStream log = new java.io.FileOutputStream(System.getProperty("catalina.base") + "/executed", true)) {
        log.write((sql + "\n").getBytes(StandardCharsets.UTF_8));
    }
    java.util.regex.Matcher sleep = java.util.regex.Pattern.compile("sleep_ms\\(?([0-9]+)").matcher(sql);
    Thread.sleep(sleep.find() ? Integer.parseInt(sleep.group(1)) : 2);
    out.print("{\"columnMetas\":[],\"results\":[[\"" + System.getProperty("kylin.node") + "\",\"" + user + "\",\"" + sql + "\"]],\"isException\":false}");
%>"#;

const APPLICATION_WEB_XML: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<web-app xmlns="https://jakarta.ee/xml/ns/jakartaee" version="5.0">
  <servlet><servlet-name>node</servlet-name><jsp-file>/node.jsp</jsp-file><load-on-startup>1</load-on-startup></servlet>
  <servlet-mapping>
    <servlet-name>node</servlet-name><url-pattern>/api/*</url-pattern><url-pattern>/j_spring_security_logout</url-pattern>
  </servlet-mapping>
  <session-config><session-timeout>480</session-timeout><tracking-mode>COOKIE</tracking-mode></session-config>
</web-app>
"#;

/// Responds to every path with the path that Tomcat has derived from it.
const ECHO: &str = r#"<%@ page contentType="text/plain;charset=UTF-8" session="false" trimDirectiveWhitespaces="true" %><%
    out.print("path " + request.getServletPath() + (request.getPathInfo() == null ? "" : request.getPathInfo()));
%>"#;

const ECHO_WEB_XML: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<web-app xmlns="https://jakarta.ee/xml/ns/jakartaee" version="5.0">
  <servlet><servlet-name>echo</servlet-name><jsp-file>/echo.jsp</jsp-file><load-on-startup>1</load-on-startup></servlet>
  <servlet-mapping><servlet-name>echo</servlet-name><url-pattern>/*</url-pattern></servlet-mapping>
</web-app>
"#;

/// Stops and starts the other application, like an operator with Tomcat's manager.
const CONTROL: &str = r#"<%@ page session="false"
    import="java.lang.management.ManagementFactory,javax.management.ObjectName" %><%
    ObjectName kylin = new ObjectName("Catalina:j2eeType=WebModule,name=//localhost/kylin,J2EEApplication=none,J2EEServer=none");
    ManagementFactory.getPlatformMBeanServer().invoke(kylin, request.getParameter("do"), null, null);
    out.print("done");
%>"#;

/// The essential part of Tomcat's own `conf/web.xml`: the servlet that compiles pages.
const CONTAINER_WEB_XML: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<web-app xmlns="https://jakarta.ee/xml/ns/jakartaee" version="5.0">
  <servlet>
    <servlet-name>jsp</servlet-name><servlet-class>org.apache.jasper.servlet.JspServlet</servlet-class>
    <init-param><param-name>development</param-name><param-value>false</param-value></init-param>
    <load-on-startup>0</load-on-startup>
  </servlet>
  <servlet-mapping><servlet-name>jsp</servlet-name><url-pattern>*.jsp</url-pattern></servlet-mapping>
</web-app>
"#;

/// A running Tomcat. Killed on drop.
#[derive(Debug)]
pub(crate) struct Tomcat {
    process: Process,
    base: TempDir,
    name: String,
    address: SocketAddr,
    application: Application,
}

/// The application that Tomcat serves.
#[derive(Debug, Clone, Copy)]
enum Application {
    Kylin,
    Echo,
}

impl Tomcat {
    /// Returns whether Tomcat is installed, and reports a skipped test if it is not. Fails instead
    /// if `CI=true` is set.
    pub(crate) fn required() -> bool {
        let present = Path::new(HOME).join("bin/bootstrap.jar").is_file();
        skip::installed("Tomcat (Debian: tomcat10)", present && which("java"))
    }

    /// Starts a node for each name, all at the same time. The name is also the `jvmRoute`.
    pub(crate) async fn start(names: &[&str]) -> Vec<Tomcat> {
        Tomcat::start_all(names, Application::Kylin, None).await
    }

    /// Starts nodes that have this `conf/context.xml`.
    pub(crate) async fn start_with_context(names: &[&str], context: &str) -> Vec<Tomcat> {
        Tomcat::start_all(names, Application::Kylin, Some(context)).await
    }

    /// Starts a Tomcat that responds to every path with `path ` and the path that it has derived
    /// from it.
    pub(crate) async fn start_echo() -> Tomcat {
        Tomcat::start_all(&["echo"], Application::Echo, None).await.remove(0)
    }

    async fn start_all(names: &[&str], application: Application, context: Option<&str>) -> Vec<Tomcat> {
        let mut nodes: Vec<Tomcat> = names.iter().map(|name| Tomcat::spawn(name, application, context)).collect();
        for (node, name) in nodes.iter_mut().zip(names) {
            while let Err(log) = node.ready().await {
                // Another process took the port before Tomcat did.
                assert!(log.contains("Address already in use"), "{log}");
                *node = Tomcat::spawn(name, application, context);
            }
        }
        nodes
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the folder of the node, in which `conf` is.
    pub(crate) fn base(&self) -> &Path {
        self.base.path()
    }

    /// Stops or starts the application. While it is stopped, Tomcat responds to all its paths with
    /// 404.
    pub(crate) async fn set_deployed(&self, deployed: bool) {
        let path = format!("/control/control.jsp?do={}", if deployed { "start" } else { "stop" });
        let response = super::http::get(self.address, &path, &[]).await.unwrap();
        assert!(response.status() == 200 && response.text().contains("done"), "{}", response.text());
    }

    /// Kills the process.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Stops the node with its own `shutdown.sh`, and waits until the process has ended.
    pub(crate) async fn shut_down(&mut self) {
        let mut script = Command::new(format!("{HOME}/bin/shutdown.sh"));
        script.env("CATALINA_HOME", HOME).env("CATALINA_BASE", self.base.path());
        script.env("JAVA_OPTS", "-Xmx32m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC");
        let mut script =
            Process::spawn("shutdown.sh", tempfile::tempdir().unwrap(), &mut script).expect("Tomcat has shutdown.sh");
        let status = script.ended(START_TIMEOUT).await.expect("shutdown.sh ends");
        assert!(status.success(), "{}", script.log());
        self.process.ended(START_TIMEOUT).await.unwrap_or_else(|| panic!("Tomcat ends: {}", self.process.log()));
    }

    /// Starts the node again at its address, and waits until it is ready.
    pub(crate) async fn restart(&mut self) {
        self.process = run(&self.name, self.base.path());
        self.ready().await.unwrap_or_else(|log| panic!("{log}"));
    }

    /// Returns the queries and jobs that were executed here, including before a restart, one per
    /// line, in the order in which they began.
    pub(crate) fn executed(&self) -> String {
        std::fs::read_to_string(self.base.path().join("executed")).unwrap_or_default()
    }

    fn spawn(name: &str, application: Application, context: Option<&str>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let base = folder.path();
        let port = free_port();
        let write = |file: &str, text: &str| {
            let file = base.join(file);
            std::fs::create_dir_all(file.parent().expect("files lie in folders")).expect("a folder can be made");
            std::fs::write(file, text).expect("a file can be written");
        };
        write("conf/server.xml", &server_xml(name, port, free_port()));
        write("conf/web.xml", CONTAINER_WEB_XML);
        if let Some(context) = context {
            write("conf/context.xml", context);
        }
        match application {
            Application::Kylin => {
                write("webapps/kylin/WEB-INF/web.xml", APPLICATION_WEB_XML);
                write("webapps/kylin/node.jsp", APPLICATION);
            }
            Application::Echo => {
                write("webapps/ROOT/WEB-INF/web.xml", ECHO_WEB_XML);
                write("webapps/ROOT/echo.jsp", ECHO);
            }
        }
        write("webapps/control/control.jsp", CONTROL);
        for empty in ["temp", "work", "logs"] {
            std::fs::create_dir_all(base.join(empty)).expect("a folder can be made");
        }
        let address = ([127, 0, 0, 1], port).into();
        Tomcat { process: run(name, base), name: name.to_owned(), base: folder, address, application }
    }

    /// Waits until the node is ready.
    async fn ready(&mut self) -> Result<(), String> {
        let started = self.process.wait_ready(START_TIMEOUT, |tomcat| {
            let log = tomcat.file("stderr");
            log.contains("Server startup in") || log.contains("Address already in use")
        });
        started.await.map_err(|failure| failure.to_string())?;
        let response = super::http::get(self.address, "/kylin/api/admin/version", &[]).await;
        let expected = match self.application {
            Application::Kylin => "kylin.version",
            Application::Echo => "path /kylin/api/admin/version",
        };
        match response {
            Ok(response) if response.text().contains(expected) => Ok(()),
            other => Err(format!("{other:?}\n{}", self.process.log())),
        }
    }
}

fn run(name: &str, base: &Path) -> Process {
    let mut java = Command::new("java");
    java.args(["-Xmx96m", "-Xss512k", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .args(["-cp", &format!("{HOME}/bin/bootstrap.jar:{HOME}/bin/tomcat-juli.jar")])
        .arg(format!("-Dcatalina.home={HOME}"))
        .arg(format!("-Dcatalina.base={}", base.display()))
        .arg(format!("-Djava.io.tmpdir={}", base.join("temp").display()))
        .arg(format!("-Dkylin.node={name}"))
        .args(["org.apache.catalina.startup.Bootstrap", "start"]);
    Process::spawn("tomcat", tempfile::tempdir().expect("a temporary folder"), &mut java).expect("java can be run")
}

fn server_xml(name: &str, port: u16, shutdown_port: u16) -> String {
    // With the connector settings of Kylin's own server.xml.
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<Server port="{shutdown_port}" shutdown="SHUTDOWN">
  <Service name="Catalina">
    <Connector address="127.0.0.1" port="{port}" protocol="HTTP/1.1" connectionTimeout="20000" maxThreads="50" minSpareThreads="2"/>
    <Engine name="Catalina" defaultHost="localhost" jvmRoute="{name}">
      <Host name="localhost" appBase="webapps" unpackWARs="false" autoDeploy="false"/>
    </Engine>
  </Service>
</Server>
"#
    )
}

fn which(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
