import java.lang.instrument.ClassFileTransformer;
import java.lang.instrument.Instrumentation;
import java.security.ProtectionDomain;
import org.springframework.asm.ClassReader;
import org.springframework.asm.ClassVisitor;
import org.springframework.asm.ClassWriter;
import org.springframework.asm.MethodVisitor;
import org.springframework.asm.Opcodes;

/**
 * A java agent that keeps a Nacos server on loopback. Nacos gives its address to Tomcat alone: gRPC and JRaft listen on
 * every interface. In the classes that open those sockets, "new InetSocketAddress(port)" becomes "new
 * InetSocketAddress(InetAddress.getLoopbackAddress(), port)", and the socket for UDP pushes a loopback one.
 */
public final class Loopback implements ClassFileTransformer {
    public static void premain(String args, Instrumentation instrumentation) {
        instrumentation.addTransformer(new Loopback());
    }

    private static boolean listens(String name) {
        return name.endsWith("/grpc/netty/NettyServerBuilder") // JRaft, and gRPC of 2.x
                || name.endsWith("/remote/grpc/BaseGrpcServer") // gRPC of 3.x
                || name.endsWith("/UdpConnector") || name.endsWith("/UdpPushService");
    }

    @Override
    public byte[] transform(ClassLoader loader, String name, Class<?> redefined, ProtectionDomain domain, byte[] code) {
        if (name == null || !listens(name)) {
            return null;
        }
        ClassReader reader = new ClassReader(code);
        ClassWriter writer = new ClassWriter(reader, ClassWriter.COMPUTE_MAXS);
        reader.accept(new ClassVisitor(Opcodes.ASM9, writer) {
            @Override
            public MethodVisitor visitMethod(int access, String method, String type, String signature, String[] exceptions) {
                return new Method(super.visitMethod(access, method, type, signature, exceptions));
            }
        }, 0);
        return writer.toByteArray();
    }

    private static final class Method extends MethodVisitor {
        Method(MethodVisitor next) {
            super(Opcodes.ASM9, next);
        }

        @Override
        public void visitMethodInsn(int opcode, String owner, String called, String type, boolean isInterface) {
            if (called.equals("<init>") && owner.equals("java/net/InetSocketAddress") && type.equals("(I)V")) {
                loopback();
                super.visitInsn(Opcodes.SWAP);
                type = "(Ljava/net/InetAddress;I)V";
            } else if (called.equals("<init>") && owner.equals("java/net/DatagramSocket") && type.equals("()V")) {
                super.visitInsn(Opcodes.ICONST_0);
                loopback();
                type = "(ILjava/net/InetAddress;)V";
            }
            super.visitMethodInsn(opcode, owner, called, type, isInterface);
        }

        private void loopback() {
            super.visitMethodInsn(Opcodes.INVOKESTATIC, "java/net/InetAddress", "getLoopbackAddress",
                    "()Ljava/net/InetAddress;", false);
        }
    }
}
